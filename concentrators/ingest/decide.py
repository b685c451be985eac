"""Which verdict each frame gets, and what is to be stored for it. Pure: no database, clock, settings or logger.

Two steps; between them the caller reads what is stored already:

1. ``examine`` (frame_checks.py) checks the frames that opened, in their order: meter, its state, payload, counter.
   A frame that fails a check gets its verdict. The result names the frames for which something may be stored already;
   usually there are none, because every counter is new.
2. ``decide`` compares the other frames with what is stored (repeated_frames.py), in their order, and lists what is to
   be stored (accepted_frames.py).

The first step takes the counters, in the keys that came with the frames: those belong to the batch.
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
    """Second step: decide in the order of the frames; compare them with stored values and with those of this batch."""
    storing = Accepted(examined.facts)
    if examined.asks:
        Comparing(examined, earlier).decide(storing)
    else:
        for uplink in examined.uplinks:
            storing.accept(uplink, uplink.candidates)
            storing.accept_sums(uplink, uplink.sums)
            storing.accept_lists(uplink, uplink.lists)
    return storing.decisions(examined.uplinks)
