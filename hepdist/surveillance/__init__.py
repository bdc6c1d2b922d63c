"""Diagnoses or predictions with dates and sites to weekly counts, expected counts, alerts and a page that names nobody."""
