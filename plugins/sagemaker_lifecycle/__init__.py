"""Operators, triggers and DAG defaults that the Amazon provider lacks or several DAGs share."""
