"""The audit chain, and what the key journal knows of it."""
