"""MLflow spans of calls, and the agent's own trace brought home."""
