"""Agents to try the package with, and to copy from: deterministic, offline, without a model behind them.

Each file is a models-from-code file, as `mlflow.pyfunc.log_model(python_model="...")` and `run_local` take it.
"""
