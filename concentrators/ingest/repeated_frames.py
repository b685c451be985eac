"""Decides frames with counters seen before (duplicate, replayed, reused, rejected again), and conflicts. Pure."""

from datetime import datetime

from concentrators.failures.kinds import BEFORE_COUNTER, FailureKind
from concentrators.ingest import hop_reports
from concentrators.ingest.accepted_frames import Accepted
from concentrators.ingest.facts import (
    Earlier,
    OpenedFrame,
)
from concentrators.ingest.frame_checks import Candidate, Examined, ExaminedUplink, all_stand
from concentrators.ingest.hop_reports import SumsFrame
from meters.values import iso, spot


class Comparing:
    """Decides frames whose counters were seen before, and all frames under locks."""

    def __init__(self, examined: Examined, earlier: Earlier) -> None:
        self._examined = examined
        self._facts = examined.facts
        self._refused = dict(earlier.refused)
        self._standing = dict(earlier.standing)
        self._received_at = dict(earlier.received_at)
        self._sums = dict(earlier.sums)
        for uplink in examined.uplinks:
            self._received_at[uplink.delivery.uplink_id] = uplink.delivery.came_at

    def decide(self, storing: Accepted) -> None:
        uplinks = self._examined.uplinks
        for uplink in uplinks:
            accepted: list[Candidate] = []
            for candidate in uplink.candidates:
                if candidate[3]:
                    self._decide_new(uplink, candidate, accepted)
                else:
                    self._decide_seen(uplink, candidate)
            storing.accept(uplink, accepted)
            storing.accept_sums(uplink, [one for one in uplink.sums if self._is_accepted(uplink, one)])
            storing.accept_lists(uplink, [one for one in uplink.lists if one.is_new])
            for one in uplink.lists:
                if not one.is_new:
                    self._decide_again(uplink, one.frame, one.since)
        for uplink in uplinks:
            self._decide_other_content(uplink)

    def _decide_new(self, uplink: ExaminedUplink, candidate: Candidate, accepted: list[Candidate]) -> None:
        """Decide a frame with a new counter: accepted, unless one of its values conflicts with a stored one."""
        frame, meter, values, _ = candidate
        missing = []
        for value in values:
            here = (value.value, uplink.delivery.uplink_id)
            there = self._standing.setdefault(spot(meter.id, value), here)
            if there is here:
                missing.append(value)
            elif there[0] != value.value:
                for taken in missing:
                    del self._standing[spot(meter.id, taken)]
                place = f"{self._facts.registers.code_of(value.register_id)} at {iso(value.captured_s)}"
                detail = f"{place} says {there[0]}, the frame {value.value}"
                uplink.refuse(frame, FailureKind.READING_CONFLICT, detail)
                return
        accepted.append((frame, meter, missing, True))

    def _decide_seen(self, uplink: ExaminedUplink, candidate: Candidate) -> None:
        """Decide a frame with a seen counter: with all values stored it is a retransmission, later a replay."""
        frame, meter, values, _ = candidate
        if not all_stand(values, meter.id, self._standing):
            uplink.unread.append(frame)
            return
        first = max(self._received_at[self._standing[spot(meter.id, value)][1]] for value in values)
        self._decide_again(uplink, frame, first)

    def _decide_again(self, uplink: ExaminedUplink, frame: OpenedFrame, first: datetime) -> None:
        """Decide a frame whose values are all stored."""
        age = uplink.delivery.came_at - first
        if age <= self._facts.retransmission_window:
            uplink.verdicts.duplicate += 1
        else:
            uplink.refuse(frame, FailureKind.REPLAYED, f"accepted already, {age.days} day{'s' * (age.days != 1)} ago")

    def _is_accepted(self, uplink: ExaminedUplink, one: SumsFrame) -> bool:
        """Return whether a frame of sums is to be stored; with a seen counter it is decided like readings."""
        said = one.said(uplink.delivery.uplink_id)
        if one.is_new:
            hop_reports.take_over(said, self._sums)
        elif not all(hop_reports.stands(sum_, self._sums.get(place)) for place, sum_ in said.items()):
            uplink.unread.append(one.frame)
        else:
            came = max(self._received_at[self._sums[place].uplink_id] for place in said)
            self._decide_again(uplink, one.frame, came)
        return one.is_new

    def _decide_other_content(self, uplink: ExaminedUplink) -> None:
        """Decide a frame with a seen counter and other values: rejected before, or the counter was used twice.

        Frames from before retention cannot be compared: they are rejected again, or replayed.
        """
        if not uplink.unread and not uplink.past:
            return
        self._note_refused_here()
        reused = FailureKind.COUNTER_REUSED, "the counter was accepted already, with other content"
        replayed = FailureKind.REPLAYED, "its counter was seen, and its readings are no longer kept"
        for frame, otherwise in [*((f, reused) for f in uplink.unread), *((f, replayed) for f in uplink.past)]:
            kind = self._refused.get(uplink.name(frame))
            if kind is None:
                uplink.refuse(frame, *otherwise)
            else:
                detail = "the same frame again; it was refused before"
                uplink.refuse(frame, kind, detail, waits=False, is_copy=True)

    def _note_refused_here(self) -> None:
        """Note rejected frames of this batch whose counters were taken; earlier rejections have priority."""
        for uplink in self._examined.uplinks:
            for failure in uplink.failures:
                if failure.kid is not None and failure.counter is not None and failure.kind not in BEFORE_COUNTER:
                    self._refused.setdefault((failure.kid, failure.counter, failure.octets), failure.kind)
