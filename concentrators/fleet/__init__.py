"""Concentrators, their tokens, and their meters."""
