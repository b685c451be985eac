"""Concentrators: registry, tokens, their own keys, the meters assigned to them, and imports of both from tables."""
