"""Which verdict each frame gets, and what is to be stored for it. Pure: no database, clock, settings or logger.

Two steps, with one look at what stands between them:

1. ``examine`` goes through the frames that opened, in their order: meter, its state, payload, counter. What fails
   there has its verdict. It says where something may stand already: mostly nowhere, as every counter is new.
2. ``decide`` compares the others with what stands, in their order, and lists what is to be stored.

Counters are taken by the first step, in the keys that came with the frames: these belong to the batch.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from concentrators.failures.kinds import BEFORE_COUNTER, WAITING, FailureKind
from concentrators.ingest import reports
from concentrators.ingest.decisions import DecidedUplink, Decisions, Failure, Heard, MeterAnswer, Verdicts
from concentrators.ingest.facts import (
    NOTHING_EARLIER,
    AssignedMeter,
    Batch,
    Earlier,
    Facts,
    OpenedFrame,
    OpenedUplink,
    SeenFrame,
    SumPlace,
    SumSaid,
)
from concentrators.ingest.reports import SumsFrame
from keyvault.replay_window import Take
from meters.contents.report import REPORT, is_sums, named_meter
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED
from meters.values import NewValue, PayloadError, PayloadRefusal, PayloadTimes, Spot, Standing, Value, iso, spot

_ANSWERS = (COMMAND_DONE, COMMAND_REFUSED, COMMAND_LATE)
_TRANSFER_EPOCH = bytes(2)  # it never protects an uplink: nothing that could come would open its frames

# An authentic frame with a payload that could stand, and whether its counter was taken for the first time.
# A plain tuple: there is one for every frame.
_Candidate = tuple[OpenedFrame, AssignedMeter, list[Value], bool]


class _Uplink:
    """One uplink of a batch: what became of its frames so far, and its verdicts."""

    def __init__(self, uplink: OpenedUplink, facts: Facts) -> None:
        self.delivery = uplink.delivery
        self.verdicts = Verdicts()
        self.failures: list[Failure] = []
        self.candidates: list[_Candidate] = []
        self.unread: list[OpenedFrame] = []  # their counters were seen, and what they say is not to be compared
        self.past: list[OpenedFrame] = []  # their counters were seen, and what they said is no longer kept
        self.sums: list[SumsFrame] = []
        self.about: dict[int, bytes] = {}  # the meters that reports are about, by the frame's index
        self._octets = dict(uplink.frames)
        self._meters = facts.meters
        for index, reason, detail, kid, counter in uplink.refused:
            self._fail(index, FailureKind(reason), detail, kid, counter)

    def name(self, frame: OpenedFrame) -> SeenFrame:
        return frame[1], frame[2], self._octets[frame[0]]

    def refuse(
        self, frame: OpenedFrame, kind: FailureKind, detail: str, *, waits: bool = True, is_copy: bool = False
    ) -> None:
        self._fail(frame[0], kind, detail, frame[1], frame[2], waits=waits, is_copy=is_copy)

    def _fail(
        self,
        index: int,
        kind: FailureKind,
        detail: str,
        kid: bytes | None,
        counter: int | None,
        *,
        waits: bool = True,
        is_copy: bool = False,
    ) -> None:
        self.verdicts.failures[kind] += 1
        if waits and kind in WAITING and kid is not None and kid[8:10] != _TRANSFER_EPOCH:
            self.verdicts.waiting_frames.setdefault(kind, []).append(index)
            if self.delivery.waited.get(index) == kind:
                return
        title = self.about.get(index, b"" if kid is None else kid[:8])
        meter = self._meters.get(title)
        meter_id = None if meter is None else meter.id
        self.failures.append(Failure(index, self._octets[index], kind, detail, kid, counter, meter_id, is_copy))


class Examined:
    """A batch after the first step: what ``decide`` goes on with, and what it has to know before."""

    def __init__(self, uplinks: list[_Uplink], facts: Facts) -> None:
        self.uplinks = uplinks
        self.facts = facts
        # Whether anything is to be looked up. Where every counter is new, nothing is: the primary keys of readings
        # and events tell.
        self.asks = facts.looks_everywhere or any(
            uplink.unread
            or uplink.past
            or not all(candidate[3] for candidate in uplink.candidates)
            or not all(one.is_new for one in uplink.sums)
            for uplink in uplinks
        )

    def places(self) -> Iterator[Spot]:
        """Where something may stand already: all places under locks, otherwise those of counters seen before."""
        everywhere = self.facts.looks_everywhere
        for uplink in self.uplinks:
            for _, meter, values, is_new in uplink.candidates:
                if everywhere or not is_new:
                    for value in values:
                        yield spot(meter.id, value)

    def sum_places(self) -> set[SumPlace]:
        """Where sums may stand already: those of counters seen before."""
        return {
            place
            for uplink in self.uplinks
            for one in uplink.sums
            if not one.is_new
            for place in one.said(uplink.delivery.uplink_id)
        }

    def seen(self, standing: Mapping[Spot, Standing]) -> set[SeenFrame]:
        """The frames whose counters were seen before, and whose values do not all stand: were they refused then?"""
        frames = set()
        for uplink in self.uplinks:
            for frame, meter, values, is_new in uplink.candidates:
                if not is_new and not _all_stand(values, meter.id, standing):
                    frames.add(uplink.name(frame))
            frames.update(map(uplink.name, uplink.unread))
            frames.update(map(uplink.name, uplink.past))
            frames.update(uplink.name(one.frame) for one in uplink.sums if not one.is_new)
        return frames


def examine(batch: Batch, facts: Facts) -> Examined:
    """First step: take the counters and read the payloads; what fails here has its verdict."""
    uplinks = []
    for opened in batch:
        uplink = _Uplink(opened, facts)
        latest_s = int(opened.delivery.came_at.timestamp()) + facts.clock_skew_s
        _examine(uplink, opened, facts, PayloadTimes(facts.earliest_s, latest_s))
        uplinks.append(uplink)
    return Examined(uplinks, facts)


def _examine(uplink: _Uplink, opened: OpenedUplink, facts: Facts, period: PayloadTimes) -> None:
    meters, readers = facts.meters, facts.readers
    candidates = uplink.candidates
    for frame in opened.opened:
        _, kid, counter, plaintext, key = frame
        title = kid[:8]
        meter = meters.get(title)
        if meter is None and title in facts.concentrators and key.content == REPORT.name:
            _examine_report(uplink, frame, facts, period)
            continue
        if meter is None:
            detail = f"a key, but no meter with system title {title.hex()}"
            uplink.refuse(frame, FailureKind.UNKNOWN_DEVICE, detail)
            continue
        if key.opened_s > period.latest_s:
            uplink.refuse(frame, FailureKind.CLOCK_SKEW, f"its session began at {iso(key.opened_s)}, which is to come")
            continue
        if not meter.in_service and key.look(counter) is Take.TAKEN:
            _refuse_suspended(uplink, frame, meter)
            continue
        try:
            reader = readers[key.content]
            values = reader.read(plaintext, title, meter.interval_minutes, period, meter.lengths)
        except PayloadError as error:
            _refuse_payload(uplink, frame, meter, error)
            continue
        take = key.take(counter)
        if take is Take.TOO_OLD or take is Take.CLOSED:
            _refuse_gone(uplink, frame, take)
        else:
            candidates.append((frame, meter, values, take is Take.TAKEN))


def _examine_report(uplink: _Uplink, frame: OpenedFrame, facts: Facts, period: PayloadTimes) -> None:
    """A frame of a concentrator: what it says of one meter, as that meter's own frame would; or sums."""
    index, kid, counter, plaintext, key = frame
    meter, values, sums = None, [], []
    try:
        if is_sums(plaintext):
            sums = reports.sums_of(frame, facts, period)
        else:
            title = named_meter(plaintext)
            if title is not None:
                uplink.about[index] = title
            meter = reports.meter_of(title, facts)
            if not meter.in_service and key.look(counter) is Take.TAKEN:
                _refuse_suspended(uplink, frame, meter)
                return
            values = reports.read(frame, uplink.about[index], meter, facts, period, uplink.delivery)
    except PayloadError as error:
        _refuse_payload(uplink, frame, meter, error)
        return
    take = key.take(counter)
    if take is Take.TOO_OLD:
        _refuse_gone(uplink, frame, take)
    elif meter is not None:
        uplink.candidates.append((frame, meter, values, take is Take.TAKEN))
    else:
        uplink.sums.append(SumsFrame(frame, facts.concentrators[kid[:8]], sums, take is Take.TAKEN))


def _refuse_suspended(uplink: _Uplink, frame: OpenedFrame, meter: AssignedMeter) -> None:
    detail = "the meter is not in service"
    uplink.refuse(frame, FailureKind.DEVICE_SUSPENDED, detail, waits=not meter.is_retired)


def _refuse_payload(uplink: _Uplink, frame: OpenedFrame, meter: AssignedMeter | None, error: PayloadError) -> None:
    """A payload that is refused: for good, with its counter; or, where it may be ours, until that has passed.

    Where the counter was taken already, what the payload says is compared with what stands, as far as it can be
    read; past retention, nothing is left to compare it with.
    """
    kind = FailureKind(error.reason)
    _, _, counter, _, key = frame
    take = key.look(counter) if kind in WAITING else key.take(counter)
    if take is Take.TOO_OLD or take is Take.CLOSED:
        _refuse_gone(uplink, frame, take)
    elif take is Take.TAKEN:
        uplink.refuse(frame, kind, str(error))
    elif error.values is not None and meter is not None:
        uplink.candidates.append((frame, meter, error.values, False))
    elif kind in WAITING:
        uplink.unread.append(frame)
    elif error.reason is PayloadRefusal.TOO_OLD:
        uplink.past.append(frame)
    else:
        uplink.refuse(frame, kind, str(error))


def _refuse_gone(uplink: _Uplink, frame: OpenedFrame, take: Take) -> None:
    """Of its counter nobody knows any more whether it was taken."""
    if take is Take.CLOSED:
        detail = "its session is kept no longer: the meter began others since"
        uplink.refuse(frame, FailureKind.SESSION_CLOSED, detail)
    else:
        uplink.refuse(frame, FailureKind.COUNTER_TOO_OLD, "the counter is older than the gaps that are kept")


def decide(examined: Examined, earlier: Earlier = NOTHING_EARLIER) -> Decisions:
    """Second step: decide in the order of the frames, against what stands already and what this batch lets stand."""
    storing = _Storing(examined.facts)
    if examined.asks:
        _Comparing(examined, earlier).decide(storing)
    else:
        for uplink in examined.uplinks:
            storing.accept(uplink, uplink.candidates)
            storing.accept_sums(uplink, uplink.sums)
    return storing.decisions(examined.uplinks)


class _Storing:
    """What is to be stored for accepted frames."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._readings: list[NewValue] = []
        self._events: list[NewValue] = []
        self._sums: dict[tuple[int, int, int, int], list[int]] = {}
        self._heard: list[tuple[_Uplink, list[bytes]]] = []
        self._said_sums: dict[SumPlace, SumSaid] = {}
        self._reported: dict[int, Heard] = {}

    def accept(self, uplink: _Uplink, candidates: list[_Candidate]) -> None:
        """Accept frames of an uplink with those of their values that do not stand yet."""
        readings, events, sums = self._readings, self._events, self._sums
        uplink_id = uplink.delivery.uplink_id
        uplink.verdicts.accepted += len(candidates)
        self._heard.append((uplink, [candidate[0][1] for candidate in candidates]))
        for (_, _, _, _, key), meter, values, _ in candidates:
            meter_id, scheme = meter.id, key.scheme
            for value in values:
                captured_s, register_id, steps, minutes, is_event = value
                (events if is_event else readings).append((meter_id, value, uplink_id, scheme))
                if minutes:
                    concentrator_id = meter.concentrator_of(captured_s, minutes)
                    if concentrator_id is not None:
                        place = (concentrator_id, register_id, minutes, captured_s)
                        if place in sums:
                            total = sums[place]
                            total[0] += steps
                            total[1] += 1
                        else:
                            sums[place] = [steps, 1]

        if uplink.about:
            self._note_reported(uplink, candidates)

    def _note_reported(self, uplink: _Uplink, candidates: list[_Candidate]) -> None:
        """Meters are heard that their concentrator reports for; the latest counts."""
        heard = Heard(uplink.delivery.came_at, uplink.delivery.concentrator_id)
        for frame, *_ in candidates:
            title = uplink.about.get(frame[0])
            if title is not None:
                key_id = self._facts.hop_keys[title]
                self._reported[key_id] = max(self._reported.get(key_id, heard), heard)

    def accept_sums(self, uplink: _Uplink, frames: list[SumsFrame]) -> None:
        """Accept frames of sums; of several for one place that under the highest counter stands."""
        uplink.verdicts.accepted += len(frames)
        self._heard.append((uplink, [one.frame[1] for one in frames]))
        for one in frames:
            reports.take_over(one.said(uplink.delivery.uplink_id), self._said_sums)

    def decisions(self, uplinks: list[_Uplink]) -> Decisions:
        heard = self._heard_at()
        meters = self._facts.meters
        return Decisions(
            [DecidedUplink(one.delivery, one.verdicts, one.failures) for one in uplinks],
            heard,
            self._readings,
            self._events,
            self._sums,
            self._answers(),
            {
                kid: meters[kid[:8]].id if kid[:8] in meters else None
                for kid in self._facts.pending_kids
                if kid in heard
            },
            self._reported,
            self._said_sums,
        )

    def _heard_at(self) -> dict[bytes, Heard]:
        """When each device was heard last; of two uplinks that came at once, the first counts."""
        heard: dict[bytes, Heard] = {}
        in_order = self._heard[::-1]
        in_order.sort(key=lambda one: one[0].delivery.came_at)
        for uplink, kids in in_order:
            heard.update(dict.fromkeys(kids, Heard(uplink.delivery.came_at, uplink.delivery.concentrator_id)))
        return heard

    def _answers(self) -> list[MeterAnswer]:
        if not self._events:
            return []
        codes = {self._facts.registers.id_of(code): code for code in _ANSWERS}
        return [
            MeterAnswer(meter_id, event.value, codes[event.register_id])
            for meter_id, event, _, _ in self._events
            if event.register_id in codes
        ]


class _Comparing:
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

    def decide(self, storing: _Storing) -> None:
        uplinks = self._examined.uplinks
        for uplink in uplinks:
            accepted: list[_Candidate] = []
            for candidate in uplink.candidates:
                if candidate[3]:
                    self._decide_new(uplink, candidate, accepted)
                else:
                    self._decide_seen(uplink, candidate)
            storing.accept(uplink, accepted)
            storing.accept_sums(uplink, [one for one in uplink.sums if self._is_accepted(uplink, one)])
        for uplink in uplinks:
            self._decide_other_content(uplink)

    def _decide_new(self, uplink: _Uplink, candidate: _Candidate, accepted: list[_Candidate]) -> None:
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

    def _decide_seen(self, uplink: _Uplink, candidate: _Candidate) -> None:
        """A counter seen before: where every value stands a retransmission, or a replay after the window."""
        frame, meter, values, _ = candidate
        if not _all_stand(values, meter.id, self._standing):
            uplink.unread.append(frame)
            return
        first = max(self._received_at[self._standing[spot(meter.id, value)][1]] for value in values)
        self._decide_again(uplink, frame, first)

    def _decide_again(self, uplink: _Uplink, frame: OpenedFrame, first: datetime) -> None:
        """All that a frame says stands since then."""
        age = uplink.delivery.came_at - first
        if age <= self._facts.retransmission_window:
            uplink.verdicts.duplicate += 1
        else:
            uplink.refuse(frame, FailureKind.REPLAYED, f"accepted already, {age.days} days ago")

    def _is_accepted(self, uplink: _Uplink, one: SumsFrame) -> bool:
        """Whether a frame of sums is to be stored; where its counter was seen before, it ends as readings do."""
        said = one.said(uplink.delivery.uplink_id)
        if one.is_new:
            reports.take_over(said, self._sums)
        elif not all(reports.stands(sum_, self._sums.get(place)) for place, sum_ in said.items()):
            uplink.unread.append(one.frame)
        else:
            came = max(self._received_at[self._sums[place].uplink_id] for place in said)
            self._decide_again(uplink, one.frame, came)
        return one.is_new

    def _decide_other_content(self, uplink: _Uplink) -> None:
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


def _all_stand(values: list[Value], meter_id: int, standing: Mapping[Spot, Standing]) -> bool:
    for value in values:
        there = standing.get(spot(meter_id, value))
        if there is None or there[0] != value.value:
            return False
    return True
