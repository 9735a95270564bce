"""What agents are told, and what they say. Pure: knows no HTTP and no MLflow."""
