"""Alerts: rules that check the state of the head-end, alerts they raise, and messages to people and other systems."""
