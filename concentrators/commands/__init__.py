"""Commands to meters: their queue, the way to the meter, and what gives them.

``queue`` puts commands in, takes them out and records their outcome. ``downlink`` seals those that a concentrator
fetches and takes its receipts. Commands come from an ``operator``, from ``gap_recovery`` (missing intervals are sent
again), from ``rollouts`` (new device keys), from ``capture_period`` (another interval length of the load profile) and
from ``concentrator_titles`` (the concentrator that a meter of scheme hop belongs to).
"""
