"""Whether the head-end is well: probes, heartbeats, examinations."""
