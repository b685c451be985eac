"""Tokens by which programs use the REST API: scoped, expiring, rotated, revoked."""
