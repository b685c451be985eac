"""Reports of concentrators about readings of their meters, and sums over many meters (docs/schemes.md, hop). Pure.

A concentrator may report only for a meter that has a key of scheme hop and is assigned to it, and say sums only for
intervals for which it has meters: everything else is rejected as identity_mismatch.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from concentrators.ingest.facts import AssignedMeter, Facts, OpenedFrame, SumPlace, SumSaid
from meters.contents.report import REPORT, ReportedSum, named_meter, read_sums
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value, iso


class SumsFrame(NamedTuple):
    """An authentic frame of sums: the concentrator whose key sealed it, and whether its counter is new."""

    frame: OpenedFrame
    concentrator_id: int
    sums: list[ReportedSum]
    is_new: bool

    def said(self, uplink_id: int) -> dict[SumPlace, SumSaid]:
        """Return its sums, by interval."""
        _, kid, counter, _, _ = self.frame
        epoch = int.from_bytes(kid[8:], "big")
        return {
            (self.concentrator_id, one.register_id, one.minutes, one.start_s): SumSaid(
                (epoch, counter), one.value, one.meters, uplink_id
            )
            for one in self.sums
        }


def named(opened: Iterable[OpenedFrame]) -> dict[int, bytes]:
    """Return the system titles of the meters that reports name, by index of the frame; frames of sums name none."""
    content = REPORT.name
    titles = {}
    for index, _, _, plaintext, key in opened:
        if key.content == content:
            title = named_meter(plaintext)
            if title is not None:
                titles[index] = title
    return titles


def meter_of(title: bytes, facts: Facts) -> AssignedMeter:
    """Return the meter of a title that a report names; PayloadError if it is not of scheme hop."""
    meter = facts.meters.get(title)
    if meter is None or title not in facts.hop_keys:
        detail = f"{title.hex()} is no meter with a key for scheme hop"
        raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, detail)
    return meter


def read(
    frame: OpenedFrame, title: bytes, meter: AssignedMeter, facts: Facts, period: PayloadTimes, *, is_its_own: bool
) -> list[Value]:
    """Return the readings of a report; PayloadError as in ``meters.contents.report``.

    A reading counts if the meter was assigned to the concentrator when it was measured, or is when the report comes
    (``is_its_own``).
    """
    _, kid, _, plaintext, key = frame
    values = facts.readers[key.content].read(plaintext, title, meter.interval_minutes, period, meter.lengths)
    if not is_its_own:
        concentrator_id = facts.concentrators[kid[:8]]
        for value in values:
            if not meter.is_assigned(concentrator_id, value.captured_s):
                detail = f"meter {title.hex()} was not assigned to this concentrator at {iso(value.captured_s)}, nor is"
                raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, detail)
    return values


def sums_of(frame: OpenedFrame, facts: Facts, period: PayloadTimes) -> list[ReportedSum]:
    """Return the sums of a frame; PayloadError as in ``meters.contents.report.read_sums``."""
    return read_sums(frame[3], facts.registers, period)


def check_has_meters(sums: Iterable[ReportedSum], concentrator_id: int, facts: Facts) -> None:
    """PayloadError if a concentrator says a sum for an interval for which no meter was assigned to it."""
    for one in sums:
        if (concentrator_id, one.minutes, one.start_s) in facts.without_meters:
            detail = f"no meter with intervals of {one.minutes} min was assigned to this concentrator at "
            raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, detail + f"{iso(one.start_s)}, nor within a day after")


def stands(said: SumSaid, standing: SumSaid | None) -> bool:
    """Return whether a sum is stored, or one under a higher counter replaced it."""
    return standing is not None and (standing.counter > said.counter or standing[:3] == said[:3])


def take_over(said: Mapping[SumPlace, SumSaid], standing: dict[SumPlace, SumSaid]) -> None:
    """Take over sums, unless one under a higher counter is known."""
    for place, one in said.items():
        there = standing.get(place)
        if there is None or there.counter <= one.counter:
            standing[place] = one
