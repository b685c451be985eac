"""What a counter that was seen before means: duplicate, replayed, reused, or refused again; and conflicts. Pure."""

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
    """Decides where counters were seen before, or under locks."""

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
        """A counter for the first time: accepted, unless another value stands where one of its values goes."""
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
        """A counter seen before: where every value stands a retransmission, or a replay after the window."""
        frame, meter, values, _ = candidate
        if not all_stand(values, meter.id, self._standing):
            uplink.unread.append(frame)
            return
        first = max(self._received_at[self._standing[spot(meter.id, value)][1]] for value in values)
        self._decide_again(uplink, frame, first)

    def _decide_again(self, uplink: ExaminedUplink, frame: OpenedFrame, first: datetime) -> None:
        """All that a frame says stands since then."""
        age = uplink.delivery.came_at - first
        if age <= self._facts.retransmission_window:
            uplink.verdicts.duplicate += 1
        else:
            uplink.refuse(frame, FailureKind.REPLAYED, f"accepted already, {age.days} days ago")

    def _is_accepted(self, uplink: ExaminedUplink, one: SumsFrame) -> bool:
        """Whether a frame of sums is to be stored; where its counter was seen before, it ends as readings do."""
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
        """A counter seen before, but not all values stand: a refused frame again, or the counter used twice.

        Of frames from before retention nothing is left to compare: refused again, or a replay.
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
        """Frames of this batch that were refused with their counters taken; what was refused earlier goes before."""
        for uplink in self._examined.uplinks:
            for failure in uplink.failures:
                if failure.kid is not None and failure.counter is not None and failure.kind not in BEFORE_COUNTER:
                    self._refused.setdefault((failure.kid, failure.counter, failure.octets), failure.kind)
