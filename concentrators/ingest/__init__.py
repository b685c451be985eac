"""How a posted body becomes readings: received, dispatched to a worker, gathered, decided, stored.

``reception`` stores an uplink; ``dispatch`` chooses which uplinks a worker verifies next; ``verification`` verifies
them through ``gather``, ``decide`` and ``store``.

The order in which a frame is checked: ``keyvault.opening`` (structure, key, key status, algorithm, tag), then
``frame_checks`` (meter, meter status, payload, counter), then ``repeated_frames`` (what is stored already).
``signed_readings`` and ``hop_reports`` read what only some schemes bring; ``keyvault.coupons.verifying`` verifies
signatures.

Two things are repeated. ``transaction_retry`` repeats a transaction at once when another one interfered.
``uplink_state`` schedules the next try of an uplink that failed, or whose task was lost: each one later than the last;
it holds all states of an uplink. ``quarantine`` finds the frames that make an uplink fail; ``reverification`` verifies
again what was rejected for a reason that may have passed.
"""
