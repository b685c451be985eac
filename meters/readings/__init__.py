"""Readings of meters: codes, packs, values, and queries."""
