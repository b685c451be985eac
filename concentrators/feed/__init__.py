"""The feed: what was verified or corrected, in the order in which it was committed, for billing and other consumers."""
