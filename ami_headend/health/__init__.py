"""Whether the head-end is well: probes, heartbeats, health checks."""
