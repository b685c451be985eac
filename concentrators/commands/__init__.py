"""Commands to meters: their queue, the way to the meter, and who gives them.

``queue`` puts commands in, takes them out and records their outcome. ``downlink`` seals those that a concentrator
fetches and takes its receipts. Commands come from an ``operator``, from ``gap_recovery`` (missing intervals are sent
again), from ``rollouts`` (new device keys), from ``capture_period`` (another interval length of the load profile) and
from ``concentrator_titles`` (the concentrator that a meter of scheme hop belongs to).

A meter gets a new key by a command from ``operator`` or ``rollouts``; the head-end activates that key on its first
authentic frame (``keyvault.device_keys.epochs``). ``rotation_progress`` only shows how far rotations have come.
"""
