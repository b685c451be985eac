"""Metrics for Prometheus, read from the database: every host gives the same answer, whichever is asked."""
