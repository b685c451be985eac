"""The audit chain, and its comparison with the key journal."""
