"""Judging the frames of uplinks: every frame gets exactly one verdict, and what follows from it is stored.

One pass over the batch (one uplink, or some), with a fixed number of queries whatever the number of frames:

1. Open the frames (keyvault) and look up their meters.
2. Interpret each payload, take each counter; what waits for something of ours keeps its counter.
3. Look up what stands already where a counter was seen before (or, under locks, everywhere).
4. Decide in order of the frames, then store counters, readings, events, totals and failures.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

from ami_headend.core.sql import fetch_rows, int_array
from concentrators.commands import queue
from concentrators.commands.queue import Answer, Said
from concentrators.failures import record
from concentrators.failures.kinds import BEFORE_COUNTER, WAITING, FailureKind
from concentrators.failures.record import Failure
from concentrators.ingest import assigned
from concentrators.ingest.assigned import AssignedMeter, assigned_meters
from concentrators.totals import totals
from concentrators.totals.totals import TotalKey
from keyvault.device_keys import epochs, tag_failures
from keyvault.opening import Frames, Opened, Opening, open_frames, proven_keys, save_counters
from keyvault.replay_window import Take
from keyvault.replay_window_store import Care
from meters.readings import store as readings
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED
from meters.readings.partitions import retention_start
from meters.readings.store import Registers
from meters.values import NewValue, PayloadError, PayloadRefusal, Period, Spot, Standing, Value, iso, spot


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is common to the frames of an uplink: its id, who brought it, when, and when it is judged (UTC).

    ``corrected_at`` is when it was received by a right clock, where somebody said that ours was behind.
    ``waited`` says of frames that are judged again what they waited as, by index: where that is still so, the
    evidence stands as it is.
    """

    uplink_id: int
    concentrator_id: int
    received_at: datetime
    judged_at: datetime
    corrected_at: datetime | None = None
    waited: Mapping[int, FailureKind] = field(default_factory=dict)

    @property
    def came_at(self) -> datetime:
        """When it was received, as far as is known by now."""
        return self.corrected_at or self.received_at


@dataclass(slots=True)
class Verdicts:
    """How many frames ended with each verdict."""

    accepted: int = 0
    duplicate: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    waiting_frames: dict[FailureKind, list[int]] = field(default_factory=dict)  # which of the rejected may open later

    @property
    def rejected(self) -> int:
        return self.failures.total()

    @property
    def waiting(self) -> int:
        """Rejected frames that may be accepted once what they wait for has come, or a fault of ours is mended."""
        return sum(map(len, self.waiting_frames.values()))

    def add(self, other: "Verdicts") -> None:
        self.accepted += other.accepted
        self.duplicate += other.duplicate
        self.failures += other.failures
        for kind, indexes in other.waiting_frames.items():
            self.waiting_frames.setdefault(kind, []).extend(indexes)


def judge(uplinks: Sequence[tuple[Delivery, Frames]], care: Care) -> list[Verdicts]:
    """Judge the frames of uplinks, in their order, and store what follows, in the caller's transaction.

    Gives the verdicts of each uplink.

    Raises ContendedError or IntegrityError where another transaction came between, or where frames at hand say
    different things of one place: the caller rolls back and calls again with more ``care``. Care.LOCK locks the
    counters in title order and looks before it stores.
    """
    opening = open_frames([frames for _, frames in uplinks], care)
    batch = _Batch(uplinks, opening)
    batch.interpret()
    batch.decide()
    batch.store()
    return [uplink.verdicts for uplink in batch.uplinks]


# An authentic frame with a payload that could stand, and whether its counter was taken for the first time.
# A plain tuple: there is one for every frame.
_Candidate = tuple[Opened, AssignedMeter, list[Value], bool]
_Standing = dict[Spot, Standing]

_registers = Registers()
_ANSWERS = {COMMAND_DONE: Said.DONE, COMMAND_REFUSED: Said.REFUSED, COMMAND_LATE: Said.LATE}
_TRANSFER_EPOCH = bytes(2)  # it never protects an uplink: nothing that could come would open its frames


class _Uplink:
    """One uplink of a batch: its frames by index, what became of them so far, and its verdicts."""

    def __init__(self, delivery: Delivery, frames: Frames, opened: list[Opened]) -> None:
        self.delivery = delivery
        self.octets = dict(frames)
        self.opened = opened
        self.candidates: list[_Candidate] = []
        self.spent: list[Opened] = []  # their counters are taken, and what they said is no longer kept
        self.unread: list[Opened] = []  # their counters are taken, and what they say is not to be compared
        self.failures: list[Failure] = []
        self.verdicts = Verdicts()


class _Batch:
    """The state of judging one batch of frames."""

    def __init__(self, uplinks: Sequence[tuple[Delivery, Frames]], opening: Opening) -> None:
        self.opening = opening
        self.locked = opening.care is Care.LOCK
        self.judged_at = uplinks[0][0].judged_at
        self.readings: list[NewValue] = []
        self.events: list[NewValue] = []
        self.sums: dict[tuple[int, int, int, int], list[int]] = {}  # by the fields of TotalKey: sum, meters
        self.meters = meters = assigned_meters(_titles(opening))
        self.meter_of = {kid: meters.get(kid[:8]) for kid in opening.keys}
        self.uplinks: list[_Uplink] = []
        for (delivery, frames), (opened, refused) in zip(uplinks, opening.uplinks, strict=True):
            uplink = _Uplink(delivery, frames, opened)
            self.uplinks.append(uplink)
            for index, reason, detail, kid, counter in refused:
                meter = meters.get(kid[:8]) if kid is not None else None
                meter_id = None if meter is None else meter.id
                kind = FailureKind(reason)
                self._fail(uplink, Failure(index, uplink.octets[index], kind, detail, kid, counter, meter_id))

    def interpret(self) -> None:
        """Take the counters and read the payloads; what fails here has its verdict."""
        _registers.begin_batch(assigned.registers_generation())
        earliest_s = int(retention_start(self.judged_at).timestamp()) + 1
        for uplink in self.uplinks:
            latest_s = int(uplink.delivery.came_at.timestamp()) + settings.CLOCK_SKEW_S
            self._interpret(uplink, Period(earliest_s, latest_s))

    def _interpret(self, uplink: _Uplink, period: Period) -> None:
        readers = _registers.readers
        meters, candidates = self.meter_of, uplink.candidates
        for frame in uplink.opened:
            _, kid, _, plaintext, _ = frame
            meter = meters[kid]
            if meter is None:
                detail = f"a key, but no meter with system title {kid[:8].hex()}"
                self._refuse(uplink, frame, FailureKind.UNKNOWN_DEVICE, detail)
                continue
            if not meter.in_service and frame.look() is Take.TAKEN:
                self._refuse(
                    uplink,
                    frame,
                    FailureKind.DEVICE_SUSPENDED,
                    "the meter is not in service",
                    waits=not meter.is_retired,
                )
                continue
            try:
                read = readers[frame.key.scheme.content]
                values = read(plaintext, kid[:8], meter.interval_minutes, period, meter.lengths)
            except PayloadError as error:
                self._refuse_payload(uplink, frame, meter, error)
                continue
            take = frame.take()
            if take is Take.TOO_OLD:
                self._refuse_old(uplink, frame)
            else:
                candidates.append((frame, meter, values, take is Take.TAKEN))

    def decide(self) -> None:
        """Decide in order of the frames, against what stands already and what this batch lets stand.

        Where every counter is new, nothing is looked up at first: the readings' primary key tells.
        """
        if self.locked or not all(candidate[3] for uplink in self.uplinks for candidate in uplink.candidates):
            self._decide_against_standing()
        else:
            for uplink in self.uplinks:
                for frame, meter, values, _ in uplink.candidates:
                    self._accept(uplink, frame, meter, values)
        for uplink in self.uplinks:
            if uplink.spent or uplink.unread:
                self._decide_other_content(uplink)

    def _decide_against_standing(self) -> None:
        standing = readings.standing_values(
            spot(meter.id, value)
            for uplink in self.uplinks
            for _, meter, values, is_new in uplink.candidates
            if self.locked or not is_new
            for value in values
        )
        received = _received_at({uplink_id for _, uplink_id in standing.values()})
        received.update({uplink.delivery.uplink_id: uplink.delivery.came_at for uplink in self.uplinks})
        for uplink in self.uplinks:
            for frame, meter, values, is_new in uplink.candidates:
                if is_new:
                    self._decide_new(uplink, frame, meter, values, standing)
                    continue
                rows = [standing.get(spot(meter.id, value)) for value in values]
                if any(row is None or row[0] != value.value for row, value in zip(rows, values, strict=True)):
                    uplink.unread.append(frame)
                else:
                    self._decide_same(uplink, frame, max(received[row[1]] for row in rows if row))

    def store(self) -> None:
        """Counters first: their compare-and-set tells whether what was decided still holds."""
        save_counters(self.opening)
        self._conclude_commands()
        tag_failures.count(self.opening)
        if self.readings:
            readings.copy_readings(self.readings)
        if self.events:
            received_at = {uplink.delivery.uplink_id: uplink.delivery.came_at for uplink in self.uplinks}
            readings.insert_events(self.events, received_at)
        if self.sums:
            totals.add({TotalKey(*key): (value, meters) for key, (value, meters) in self.sums.items()})
        for uplink in self.uplinks:
            if uplink.failures:
                delivery = uplink.delivery
                record.record(uplink.failures, delivery.uplink_id, delivery.concentrator_id, delivery.received_at)

    def _conclude_commands(self) -> None:
        """What the accepted frames prove of commands: answers of meters, and keys that arrived. Mostly nothing."""
        now = self.judged_at
        answer_of = {_registers.catalogue.id_of(code): said for code, said in _ANSWERS.items()}
        answers = [
            Answer(meter_id, event.value, answer_of[event.register_id])
            for meter_id, event, _ in self.events
            if event.register_id in answer_of
        ]
        if answers:
            queue.answered(answers, now)
        proven = proven_keys(self.opening)
        if proven:
            keys = [(self.meters[kid[:8]].id, int.from_bytes(kid[8:], "big")) for kid in proven]
            queue.keys_arrived(keys, now)
            epochs.activate(proven.values(), now)

    def _decide_new(
        self, uplink: _Uplink, frame: Opened, meter: AssignedMeter, values: list[Value], standing: _Standing
    ) -> None:
        """A counter for the first time: accepted, unless another value stands where one of its values goes."""
        meter_id = meter.id
        missing = []
        for value in values:
            here = (value.value, uplink.delivery.uplink_id)
            there = standing.setdefault(spot(meter_id, value), here)
            if there is here:
                missing.append(value)
            elif there[0] != value.value:
                for taken in missing:
                    del standing[spot(meter_id, taken)]
                place = f"{_registers.catalogue.code_of(value.register_id)} at {iso(value.captured_s)}"
                detail = f"{place} says {there[0]}, the frame {value.value}"
                self._refuse(uplink, frame, FailureKind.READING_CONFLICT, detail)
                return
        self._accept(uplink, frame, meter, missing)

    def _accept(self, uplink: _Uplink, frame: Opened, meter: AssignedMeter, values: list[Value]) -> None:
        """Accept a frame; of its values, those that do not stand yet are stored and added up."""
        delivery = uplink.delivery
        uplink.verdicts.accepted += 1
        frame.heard(delivery.came_at, delivery.concentrator_id)
        meter_id, uplink_id, sums = meter.id, delivery.uplink_id, self.sums
        for value in values:
            captured_s, register_id, steps, minutes, is_event = value
            (self.events if is_event else self.readings).append((meter_id, value, uplink_id))
            if minutes:
                concentrator_id = meter.concentrator_of(captured_s, minutes)
                if concentrator_id is not None:
                    key = (concentrator_id, register_id, minutes, captured_s)
                    if key in sums:
                        total = sums[key]
                        total[0] += steps
                        total[1] += 1
                    else:
                        sums[key] = [steps, 1]

    def _decide_same(self, uplink: _Uplink, frame: Opened, first_received_at: datetime) -> None:
        """A counter seen before, and every value stands: a retransmission, or a replay after the window."""
        age = uplink.delivery.came_at - first_received_at
        if age <= timedelta(seconds=settings.RETRANSMISSION_WINDOW_S):
            uplink.verdicts.duplicate += 1
        else:
            self._refuse(uplink, frame, FailureKind.REPLAYED, f"accepted already, {age.days} days ago")

    def _decide_other_content(self, uplink: _Uplink) -> None:
        """A counter seen before, but not all values stand: a refused frame again, or the counter used twice.

        Of frames from before retention nothing is left to compare: refused again, or a replay.
        """
        frames = [*uplink.unread, *uplink.spent]
        before = record.refused_before(
            {(one.kid, one.invocation_counter, uplink.octets[one.frame_index]) for one in frames}
        )
        for failure in (failure for other in self.uplinks for failure in other.failures):
            if failure.kid is not None and failure.counter is not None and failure.kind not in BEFORE_COUNTER:
                before.setdefault((failure.kid, failure.counter, failure.octets), failure.kind)
        reused = FailureKind.COUNTER_REUSED, "the counter was accepted already, with other content"
        replayed = FailureKind.REPLAYED, "its counter was seen, and its readings are no longer kept"
        for frame, otherwise in [*((f, reused) for f in uplink.unread), *((f, replayed) for f in uplink.spent)]:
            kind = before.get((frame.kid, frame.invocation_counter, uplink.octets[frame.frame_index]))
            if kind is None:
                self._refuse(uplink, frame, *otherwise)
            else:
                detail = "the same frame again; it was refused before"
                self._refuse(uplink, frame, kind, detail, waits=False, is_copy=True)

    def _refuse_payload(self, uplink: _Uplink, frame: Opened, meter: AssignedMeter, error: PayloadError) -> None:
        """A payload that is refused: for good, with its counter; or, where it may be ours, until that has passed.

        Where the counter was taken already, what the payload says is compared with what stands, as far as it can be
        read; past retention, nothing is left to compare it with.
        """
        kind = FailureKind(error.reason)
        take = frame.look() if kind in WAITING else frame.take()
        if take is Take.TOO_OLD:
            self._refuse_old(uplink, frame)
        elif take is Take.TAKEN:
            self._refuse(uplink, frame, kind, str(error))
        elif error.values is not None:
            uplink.candidates.append((frame, meter, error.values, False))
        elif kind in WAITING:
            uplink.unread.append(frame)
        elif error.reason is PayloadRefusal.TOO_OLD:
            uplink.spent.append(frame)
        else:
            self._refuse(uplink, frame, kind, str(error))

    def _refuse_old(self, uplink: _Uplink, frame: Opened) -> None:
        self._refuse(uplink, frame, FailureKind.COUNTER_TOO_OLD, "the counter is older than the gaps that are kept")

    def _refuse(
        self,
        uplink: _Uplink,
        frame: Opened,
        kind: FailureKind,
        detail: str,
        *,
        waits: bool = True,
        is_copy: bool = False,
    ) -> None:
        meter = self.meters.get(frame.kid[:8])
        self._fail(
            uplink,
            Failure(
                frame.frame_index,
                uplink.octets[frame.frame_index],
                kind,
                detail,
                frame.kid,
                frame.invocation_counter,
                None if meter is None else meter.id,
                is_copy,
            ),
            waits=waits,
        )

    def _fail(self, uplink: _Uplink, failure: Failure, *, waits: bool = True) -> None:
        kind, kid, index = failure.kind, failure.kid, failure.frame_index
        uplink.verdicts.failures[kind] += 1
        if waits and kind in WAITING and kid is not None and kid[8:] != _TRANSFER_EPOCH:
            uplink.verdicts.waiting_frames.setdefault(kind, []).append(index)
            if uplink.delivery.waited.get(index) == kind:
                return
        uplink.failures.append(failure)


def _titles(opening: Opening) -> set[bytes]:
    """The system titles that frames name, known or not."""
    refused = [one.kid[:8] for uplink in opening.uplinks for one in uplink.refused if one.kid is not None]
    return {kid[:8] for kid in opening.keys}.union(refused)


def _received_at(uplink_ids: set[int]) -> dict[int, datetime]:
    if not uplink_ids:
        return {}
    rows = fetch_rows(
        "SELECT id, coalesce(corrected_at, received_at) FROM concentrators_uplink WHERE id = ANY(%s::bigint[])",
        int_array(uplink_ids),
    )
    return dict(rows)
