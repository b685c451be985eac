"""The pages of the keys: how they stand, the master key, waves, the audit chain, approvals. No key octets."""
