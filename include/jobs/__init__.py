"""What runs inside SageMaker jobs and endpoints: ``python -m include.jobs train|serve|<processing job>``. No Airflow in here."""
