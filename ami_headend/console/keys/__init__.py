"""The pages of keys: key status, the master key, waves, the audit chain, approvals. No key octets."""
