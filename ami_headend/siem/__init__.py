"""Security events for a SIEM: what was done, who signed in, which alerts and rejected frames there were."""
