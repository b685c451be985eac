"""Which verdict each frame gets, and what is to be stored for it. Pure: no database, clock, settings or logger.

Two steps, with one look at what stands between them:

1. ``examine`` (frame_checks.py) goes through the frames that opened, in their order: meter, its state, payload, counter.
   What fails there has its verdict. It says where something may stand already: mostly nowhere, as every counter is new.
2. ``decide`` compares the others with what stands (repeated_frames.py), in their order, and lists what is to be stored.

Counters are taken by the first step, in the keys that came with the frames: these belong to the batch.
"""

from concentrators.ingest.accepted_frames import Accepted
from concentrators.ingest.decisions import Decisions
from concentrators.ingest.facts import (
    NOTHING_EARLIER,
    Earlier,
)
from concentrators.ingest.frame_checks import Examined
from concentrators.ingest.repeated_frames import Comparing


def decide(examined: Examined, earlier: Earlier = NOTHING_EARLIER) -> Decisions:
    """Second step: decide in the order of the frames, against what stands already and what this batch lets stand."""
    storing = Accepted(examined.facts)
    if examined.asks:
        Comparing(examined, earlier).decide(storing)
    else:
        for uplink in examined.uplinks:
            storing.accept(uplink, uplink.candidates)
            storing.accept_sums(uplink, uplink.sums)
    return storing.decisions(examined.uplinks)
