"""Alerts: rules that look at the head-end's state, what they found, and telling people and other systems of it."""
