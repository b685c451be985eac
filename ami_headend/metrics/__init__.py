"""Metrics for Prometheus, read from the database, so that every host gives the same answer."""
