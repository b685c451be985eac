"""Totals of intervals, and their completeness."""
