"""Validation of readings that are stored: what does not fit together is marked beside them, and no value is changed."""
