"""What every fraud domain shares: time, data contracts, metrics, evidence. Pure Python: no Airflow, no AWS, no clock."""
