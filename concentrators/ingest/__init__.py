"""How a posted body becomes readings: received, dispatched to a worker, gathered, decided, stored.

``reception`` stores an uplink; ``dispatch`` chooses which uplinks a worker verifies next; ``verification`` verifies
them through ``gather``, ``decide`` (with ``frame_checks``, ``repeated_frames`` and ``accepted_frames``) and ``store``.
``attempt`` is the loop that repeats a transaction when another one interfered. ``uplink_state`` holds the states of an
uplink: when it is due, how often it failed, when it was verified. ``quarantine`` finds the frames that make an uplink
fail; ``reverification`` verifies again what was rejected for a reason that may have passed.
"""
