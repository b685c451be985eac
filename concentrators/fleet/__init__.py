"""Concentrators, their tokens, and which meters belong to them."""
