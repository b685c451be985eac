"""Totals of intervals, and how complete they are."""
