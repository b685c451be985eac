"""Judging the frames of uplinks: every frame gets exactly one verdict, and what follows from it is stored.

One pass over the batch (one uplink, or some), with a fixed number of queries whatever the number of frames:

1. Open the frames (keyvault) and look up their meters.
2. Take each counter, interpret each payload.
3. Look up what stands already where a counter was seen before (or, under locks, everywhere).
4. Decide in order of the frames, then store counters, readings, events, totals and failures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

from concentrators import commands, integrity, totals
from concentrators.assigned import AssignedMeter, assigned_meters
from concentrators.commands import Answer, Said
from concentrators.integrity import Failure
from concentrators.totals import TotalKey
from concentrators.verdicts import WAITING, FailureKind
from keyvault import epochs, tagfailures
from keyvault.counterrows import Care
from keyvault.counters import Take
from keyvault.opening import Frames, Opened, Opening, open_frames, proven_keys, save_counters
from keyvault.sql import fetch_rows, int_array
from meters import readings
from meters.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED
from meters.partitions import retention_start
from meters.readings import NewValue, PayloadError, PayloadRefusal, Period, Registers, Standing, Value


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is common to the frames of an uplink: its id, who brought it, when, and when it is judged (UTC)."""

    uplink_id: int
    concentrator_id: int
    received_at: datetime
    judged_at: datetime


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
        """Rejected frames that may be accepted once a key is known, or a fault of ours mended."""
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
_Standing = dict[tuple[int, int, int], Standing]  # by meter id, register id, Unix second

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
        self.spent: list[Opened] = []
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
            for one in refused:
                self._fail(uplink, one.frame_index, FailureKind(one.reason), one.detail, one.kid, one.counter)

    def interpret(self) -> None:
        """Take the counters and read the payloads; what fails here has its verdict."""
        _registers.begin_batch()
        earliest_s = int(retention_start(self.judged_at).timestamp()) + 1
        for uplink in self.uplinks:
            latest_s = int(uplink.delivery.received_at.timestamp()) + settings.CLOCK_SKEW_S
            self._interpret(uplink, Period(earliest_s, latest_s))

    def _interpret(self, uplink: _Uplink, period: Period) -> None:
        registers = _registers
        meters, candidates = self.meter_of, uplink.candidates
        for frame in uplink.opened:
            _, kid, _, plaintext, _ = frame
            meter = meters[kid]
            if meter is None:
                detail = f"a key, but no meter with system title {kid[:8].hex()}"
                self._refuse(uplink, frame, FailureKind.UNKNOWN_DEVICE, detail)
                continue
            if not meter.in_service and frame.look() is Take.TAKEN:
                self._refuse(uplink, frame, FailureKind.DEVICE_SUSPENDED, "the meter is not in service")
                continue
            take = frame.take()
            if take is Take.TOO_OLD:
                detail = "the counter is older than the gaps that are kept"
                self._refuse(uplink, frame, FailureKind.COUNTER_TOO_OLD, detail)
                continue
            try:
                values = readings.interpret(
                    plaintext, kid[:8], meter.interval_minutes, registers, period, meter.lengths
                )
            except PayloadError as error:
                self._refuse_payload(uplink, frame, take, error)
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
            if uplink.spent:
                self._decide_other_content(uplink, [])

    def _decide_against_standing(self) -> None:
        standing = readings.standing_values(
            (meter.id, value)
            for uplink in self.uplinks
            for _, meter, values, is_new in uplink.candidates
            if self.locked or not is_new
            for value in values
        )
        received = _received_at({uplink_id for _, uplink_id in standing.values()})
        received.update({uplink.delivery.uplink_id: uplink.delivery.received_at for uplink in self.uplinks})
        for uplink in self.uplinks:
            unclear: list[Opened] = []
            for frame, meter, values, is_new in uplink.candidates:
                if is_new:
                    self._decide_new(uplink, frame, meter, values, standing)
                    continue
                rows = [standing.get((meter.id, value.register_id, value.captured_s)) for value in values]
                if any(row is None or row[0] != value.value for row, value in zip(rows, values, strict=True)):
                    unclear.append(frame)
                else:
                    self._decide_same(uplink, frame, max(received[row[1]] for row in rows if row))
            if unclear:
                self._decide_other_content(uplink, unclear)

    def store(self) -> None:
        """Counters first: their compare-and-set tells whether what was decided still holds."""
        save_counters(self.opening)
        self._conclude_commands()
        tagfailures.count(self.opening)
        if self.readings:
            readings.copy_readings(self.readings)
        if self.events:
            received_at = {uplink.delivery.uplink_id: uplink.delivery.received_at for uplink in self.uplinks}
            readings.insert_events(self.events, received_at)
        if self.sums:
            totals.add({TotalKey(*key): (value, meters) for key, (value, meters) in self.sums.items()})
        for uplink in self.uplinks:
            if uplink.failures:
                delivery = uplink.delivery
                integrity.record(uplink.failures, delivery.uplink_id, delivery.concentrator_id, delivery.received_at)

    def _conclude_commands(self) -> None:
        """What the accepted frames prove of commands: answers of meters, and keys that arrived. Mostly nothing."""
        now = self.judged_at
        answer_of = {_registers.id_of(code): said for code, said in _ANSWERS.items()}
        answers = [
            Answer(meter_id, event.value, answer_of[event.register_id])
            for meter_id, event, _ in self.events
            if event.register_id in answer_of
        ]
        if answers:
            commands.answered(answers, now)
        proven = proven_keys(self.opening)
        if proven:
            keys = [(self.meters[kid[:8]].id, int.from_bytes(kid[8:], "big")) for kid in proven]
            commands.keys_arrived(keys, now)
            epochs.activate(proven.values(), now)

    def _decide_new(
        self, uplink: _Uplink, frame: Opened, meter: AssignedMeter, values: list[Value], standing: _Standing
    ) -> None:
        """A counter for the first time: accepted, unless another value stands where one of its values goes."""
        meter_id = meter.id
        missing = []
        for value in values:
            here = (value.value, uplink.delivery.uplink_id)
            there = standing.setdefault((meter_id, value.register_id, value.captured_s), here)
            if there is here:
                missing.append(value)
            elif there[0] != value.value:
                for taken in missing:
                    del standing[meter_id, taken.register_id, taken.captured_s]
                detail = f"register {value.register_id} at {value.captured_s} says {there[0]}, the frame {value.value}"
                self._refuse(uplink, frame, FailureKind.READING_CONFLICT, detail)
                return
        self._accept(uplink, frame, meter, missing)

    def _accept(self, uplink: _Uplink, frame: Opened, meter: AssignedMeter, values: list[Value]) -> None:
        """Accept a frame; of its values, those that do not stand yet are stored and added up."""
        delivery = uplink.delivery
        uplink.verdicts.accepted += 1
        frame.heard(delivery.received_at, delivery.concentrator_id)
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
        age = uplink.delivery.received_at - first_received_at
        if age <= timedelta(seconds=settings.RETRANSMISSION_WINDOW_S):
            uplink.verdicts.duplicate += 1
        else:
            self._refuse(uplink, frame, FailureKind.REPLAYED, f"accepted already, {age.days} days ago")

    def _decide_other_content(self, uplink: _Uplink, frames: list[Opened]) -> None:
        """A counter seen before, but not all values stand: a refused frame again, or the counter used twice.

        Of frames from before retention nothing is left to compare: refused again, or a replay.
        """
        spent, uplink.spent = uplink.spent, []
        before = integrity.refused_before(
            {(one.kid, one.invocation_counter, uplink.octets[one.frame_index]) for one in (*frames, *spent)}
        )
        for failure in (failure for other in self.uplinks for failure in other.failures):
            if failure.kid is not None and failure.counter is not None:
                before.setdefault((failure.kid, failure.counter, failure.octets), failure.kind)
        reused = FailureKind.COUNTER_REUSED, "the counter was accepted already, with other content"
        replayed = FailureKind.REPLAYED, "its counter was seen, and its readings are no longer kept"
        for frame, otherwise in [*((f, reused) for f in frames), *((f, replayed) for f in spent)]:
            kind = before.get((frame.kid, frame.invocation_counter, uplink.octets[frame.frame_index]))
            if kind is None:
                self._refuse(uplink, frame, *otherwise)
            else:
                self._refuse(uplink, frame, kind, "the same frame again; it was refused before")

    def _refuse_payload(self, uplink: _Uplink, frame: Opened, take: Take, error: PayloadError) -> None:
        """A payload that is refused; past retention, nothing is left to compare a seen counter with."""
        if take is Take.SEEN and error.reason is PayloadRefusal.TOO_OLD:
            uplink.spent.append(frame)
        else:
            self._refuse(uplink, frame, FailureKind(error.reason), str(error))

    def _refuse(self, uplink: _Uplink, frame: Opened, kind: FailureKind, detail: str) -> None:
        self._fail(uplink, frame.frame_index, kind, detail, frame.kid, frame.invocation_counter)

    def _fail(
        self, uplink: _Uplink, index: int, kind: FailureKind, detail: str, kid: bytes | None, counter: int | None
    ) -> None:
        meter = self.meters.get(kid[:8]) if kid is not None else None
        uplink.verdicts.failures[kind] += 1
        if kind in WAITING and kid is not None and kid[8:] != _TRANSFER_EPOCH:
            uplink.verdicts.waiting_frames.setdefault(kind, []).append(index)
        uplink.failures.append(
            Failure(index, uplink.octets[index], kind, detail, kid, counter, None if meter is None else meter.id)
        )


def _titles(opening: Opening) -> set[bytes]:
    """The system titles that frames name, known or not."""
    refused = [one.kid[:8] for uplink in opening.uplinks for one in uplink.refused if one.kid is not None]
    return {kid[:8] for kid in opening.keys}.union(refused)


def _received_at(uplink_ids: set[int]) -> dict[int, datetime]:
    if not uplink_ids:
        return {}
    rows = fetch_rows(
        "SELECT id, received_at FROM concentrators_uplink WHERE id = ANY(%s::bigint[])", int_array(uplink_ids)
    )
    return dict(rows)
