"""No agent: nothing is given to mlflow.models.set_model."""
