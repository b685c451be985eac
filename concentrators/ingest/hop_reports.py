"""What concentrators say of their meters: whose reading a report is, and sums over many (docs/schemes.md, hop). Pure.

A concentrator speaks for a meter only where the meter has a key for scheme hop, and is assigned to it: its word on any
other is refused as identity_mismatch.
"""

from collections.abc import Mapping
from typing import NamedTuple

from concentrators.ingest.facts import AssignedMeter, Delivery, Facts, OpenedFrame, SumPlace, SumSaid
from meters.contents.report import ReportedSum, named_meter, read_sums
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value, iso


class SumsFrame(NamedTuple):
    """An authentic frame of sums: the concentrator whose key sealed it, and whether its counter is new."""

    frame: OpenedFrame
    concentrator_id: int
    sums: list[ReportedSum]
    is_new: bool

    def said(self, uplink_id: int) -> dict[SumPlace, SumSaid]:
        """What it says, by place."""
        _, kid, counter, _, _ = self.frame
        epoch = int.from_bytes(kid[8:], "big")
        return {
            (self.concentrator_id, one.register_id, one.minutes, one.start_s): SumSaid(
                (epoch, counter), one.value, one.meters, uplink_id
            )
            for one in self.sums
        }


def named(plaintext: bytes, facts: Facts) -> tuple[bytes, AssignedMeter]:
    """The meter that a report names, with its title; PayloadError where it names none, or one not of scheme hop."""
    title = named_meter(plaintext)
    if title is None:
        raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, "the base name names no meter")
    meter = facts.meters.get(title)
    if meter is None or title not in facts.hop_keys:
        detail = f"{title.hex()} is no meter with a key for scheme hop"
        raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, detail)
    return title, meter


def speaks_for(frame: OpenedFrame, meter: AssignedMeter, facts: Facts, delivery: Delivery) -> bool:
    """Whether a meter is assigned to the concentrator that sealed a frame, as the frame comes."""
    return meter.is_assigned(facts.concentrators[frame[1][:8]], int(delivery.came_at.timestamp()))


def read(
    frame: OpenedFrame, title: bytes, meter: AssignedMeter, facts: Facts, period: PayloadTimes, delivery: Delivery
) -> list[Value]:
    """The readings that a report says of its meter; PayloadError: see ``meters.contents.report``.

    Each counts where the meter was assigned to the concentrator when it was measured, or is as the report comes.
    """
    _, kid, _, plaintext, key = frame
    values = facts.readers[key.content].read(plaintext, title, meter.interval_minutes, period, meter.lengths)
    if not speaks_for(frame, meter, facts, delivery):
        concentrator_id = facts.concentrators[kid[:8]]
        for value in values:
            if not meter.is_assigned(concentrator_id, value.captured_s):
                detail = f"meter {title.hex()} was not assigned to this concentrator at {iso(value.captured_s)}, nor is"
                raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, detail)
    return values


def sums_of(frame: OpenedFrame, facts: Facts, period: PayloadTimes) -> list[ReportedSum]:
    """The sums that a frame says; PayloadError: see ``meters.contents.report.read_sums``."""
    return read_sums(frame[3], facts.registers, period)


def stands(said: SumSaid, standing: SumSaid | None) -> bool:
    """Whether a sum is what stands, or gave way to one under a higher counter."""
    return standing is not None and (standing.counter > said.counter or standing[:3] == said[:3])


def take_over(said: Mapping[SumPlace, SumSaid], standing: dict[SumPlace, SumSaid]) -> None:
    """Let sums stand where none under a higher counter does."""
    for place, one in said.items():
        there = standing.get(place)
        if there is None or there.counter <= one.counter:
            standing[place] = one
