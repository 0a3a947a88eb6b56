"""Automobile-insurance claims: which are fraudulent, asked when a claim is reported."""
