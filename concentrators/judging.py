"""Judging the frames of an uplink: every frame gets exactly one verdict, and what follows from it is stored.

One pass over the batch, with a fixed number of queries whatever the number of frames:

1. Open the frames (keyvault) and look up their meters.
2. Take each counter, interpret each payload.
3. Look up what stands already where a counter was seen before (or, on a careful second try, everywhere).
4. Decide in order of the frames, then store counters, readings, events, totals and failures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

from concentrators import commands, integrity, totals
from concentrators.assigned import AssignedMeter, assigned_meters
from concentrators.commands import Answer
from concentrators.integrity import Failure
from concentrators.totals import TotalKey
from concentrators.verdicts import WAITING, FailureKind
from keyvault import epochs, tagfailures
from keyvault.counters import Take
from keyvault.opening import Opened, Opening, open_frames, proven_keys, save_counters
from keyvault.sql import fetch_rows, int_array
from meters import readings
from meters.obis import COMMAND_DONE, COMMAND_REFUSED
from meters.partitions import retention_start
from meters.readings import PayloadError, PayloadRefusal, Period, Registers, Standing, Value

Frames = Sequence[tuple[int, bytes]]


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
        """Rejected frames that may open once a key is known."""
        return sum(map(len, self.waiting_frames.values()))

    def add(self, other: "Verdicts") -> None:
        self.accepted += other.accepted
        self.duplicate += other.duplicate
        self.failures += other.failures
        for kind, indexes in other.waiting_frames.items():
            self.waiting_frames.setdefault(kind, []).extend(indexes)


def judge(delivery: Delivery, frames: Frames, *, careful: bool = False) -> Verdicts:
    """Judge frames, each with its index in the uplink, and store what follows, in the caller's transaction.

    Raises ContendedError or IntegrityError where another transaction came between: the caller rolls
    back and calls again with ``careful``, which locks the counters in title order and looks before it stores.
    """
    opening = open_frames(frames, lock=careful)
    batch = _Batch(delivery, frames, opening)
    batch.interpret()
    batch.decide(careful=careful)
    batch.store()
    return batch.verdicts


# An authentic frame with a payload that could stand, and whether its counter was taken for the first time.
# A plain tuple: there is one for every frame.
_Candidate = tuple[Opened, AssignedMeter, list[Value], bool]


_registers = Registers()
_TRANSFER_EPOCH = bytes(2)  # it never protects an uplink: nothing that could come would open its frames


class _Batch:
    """The state of judging one batch of frames."""

    def __init__(self, delivery: Delivery, frames: Frames, opening: Opening) -> None:
        self.delivery = delivery
        self.octets = dict(frames)
        self.opening = opening
        self.verdicts = Verdicts()
        self.failures: list[Failure] = []
        self.candidates: list[_Candidate] = []
        self.spent: list[Opened] = []
        self.readings: list[tuple[int, Value]] = []
        self.events: list[tuple[int, Value]] = []
        self.sums: dict[tuple[int, int, int, int], list[int]] = {}  # by the fields of TotalKey: sum, meters
        titles = {kid[:8] for kid in opening.keys} | {r.kid[:8] for r in opening.refused if r.kid is not None}
        self.meters = assigned_meters(titles)
        for refused in opening.refused:
            self._fail(refused.frame_index, FailureKind(refused.reason), refused.detail, refused.kid, refused.counter)

    def interpret(self) -> None:
        """Take the counters and read the payloads; what fails here has its verdict."""
        _registers.begin_batch()
        period = Period(
            int(retention_start(self.delivery.judged_at).timestamp()) + 1,
            int(self.delivery.received_at.timestamp()) + settings.CLOCK_SKEW_S,
        )
        for frame in self.opening.opened:
            title = frame.kid[:8]
            meter = self.meters.get(title)
            if meter is None:
                self._refuse(frame, FailureKind.UNKNOWN_DEVICE, f"a key, but no meter with system title {title.hex()}")
                continue
            if not meter.in_service and frame.look() is Take.TAKEN:
                self._refuse(frame, FailureKind.DEVICE_SUSPENDED, "the meter is not in service")
                continue
            take = frame.take()
            if take is Take.TOO_OLD:
                self._refuse(frame, FailureKind.COUNTER_TOO_OLD, "the counter is older than the gaps that are kept")
                continue
            try:
                values = readings.interpret(
                    frame.plaintext, title, meter.interval_minutes, _registers, period, meter.lengths
                )
            except PayloadError as error:
                self._refuse_payload(frame, take, error)
            else:
                self.candidates.append((frame, meter, values, take is Take.TAKEN))

    def decide(self, *, careful: bool) -> None:
        """Decide in order of the frames, against what stands already and what this batch lets stand."""
        standing = readings.standing_values(
            (meter.id, value)
            for _, meter, values, is_new in self.candidates
            if careful or not is_new
            for value in values
        )
        received = _received_at({uplink_id for _, uplink_id in standing.values()})
        received[self.delivery.uplink_id] = self.delivery.received_at
        unclear: list[Opened] = []
        for frame, meter, values, is_new in self.candidates:
            if is_new:
                self._decide_new(frame, meter, values, standing)
                continue
            rows = [standing.get((meter.id, value.register_id, value.captured_s)) for value in values]
            if any(row is None or row[0] != value.value for row, value in zip(rows, values, strict=True)):
                unclear.append(frame)
            else:
                self._decide_same(frame, max(received[row[1]] for row in rows if row))
        if unclear or self.spent:
            self._decide_other_content(unclear)

    def store(self) -> None:
        """Counters first: their compare-and-set tells whether what was decided still holds."""
        delivery = self.delivery
        save_counters(self.opening, delivery.received_at, delivery.concentrator_id)
        self._conclude_commands()
        tagfailures.count(self.opening)
        if self.readings:
            readings.copy_readings(self.readings, delivery.uplink_id)
        if self.events:
            readings.insert_events(self.events, delivery.uplink_id, delivery.received_at)
        if self.sums:
            totals.add({TotalKey(*key): (value, meters) for key, (value, meters) in self.sums.items()})
        if self.failures:
            integrity.record(self.failures, delivery.uplink_id, delivery.concentrator_id, delivery.received_at)

    def _conclude_commands(self) -> None:
        """What the accepted frames prove of commands: answers of meters, and keys that arrived. Mostly nothing."""
        now = self.delivery.judged_at
        answer_of = {_registers.id_of(COMMAND_DONE): True, _registers.id_of(COMMAND_REFUSED): False}
        answers = [
            Answer(meter_id, event.value, answer_of[event.register_id])
            for meter_id, event in self.events
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
        self, frame: Opened, meter: AssignedMeter, values: list[Value], standing: dict[tuple[int, int, int], Standing]
    ) -> None:
        """A counter for the first time: accepted, unless another value stands where one of its values goes."""
        meter_id = meter.id
        missing = []
        for value in values:
            here = (value.value, self.delivery.uplink_id)
            there = standing.setdefault((meter_id, value.register_id, value.captured_s), here)
            if there is here:
                missing.append(value)
            elif there[0] != value.value:
                for taken in missing:
                    del standing[meter_id, taken.register_id, taken.captured_s]
                detail = f"register {value.register_id} at {value.captured_s} says {there[0]}, the frame {value.value}"
                self._refuse(frame, FailureKind.READING_CONFLICT, detail)
                return
        self.verdicts.accepted += 1
        frame.heard()
        for value in missing:
            (self.events if value.is_event else self.readings).append((meter_id, value))
            if value.interval_minutes:
                self._add_up(meter, value)

    def _add_up(self, meter: AssignedMeter, value: Value) -> None:
        concentrator_id = meter.concentrator_at(value.captured_s)
        if concentrator_id is not None:
            key = (concentrator_id, value.register_id, value.interval_minutes, value.captured_s)
            total = self.sums.get(key)
            if total is None:
                self.sums[key] = [value.value, 1]
            else:
                total[0] += value.value
                total[1] += 1

    def _decide_same(self, frame: Opened, first_received_at: datetime) -> None:
        """A counter seen before, and every value stands: a retransmission, or a replay after the window."""
        age = self.delivery.received_at - first_received_at
        if age <= timedelta(seconds=settings.RETRANSMISSION_WINDOW_S):
            self.verdicts.duplicate += 1
        else:
            self._refuse(frame, FailureKind.REPLAYED, f"accepted already, {age.days} days ago")

    def _decide_other_content(self, frames: list[Opened]) -> None:
        """A counter seen before, but not all values stand: a refused frame again, or the counter used twice.

        Of frames from before retention nothing is left to compare: refused again, or a replay.
        """
        before = integrity.refused_before({(frame.kid, frame.counter) for frame in (*frames, *self.spent)})
        for failure in self.failures:
            if failure.kid is not None and failure.counter is not None:
                before.setdefault((failure.kid, failure.counter, failure.octets), failure.kind)
        reused = FailureKind.COUNTER_REUSED, "the counter was accepted already, with other content"
        replayed = FailureKind.REPLAYED, "its counter was seen, and its readings are no longer kept"
        for frame, otherwise in [*((f, reused) for f in frames), *((f, replayed) for f in self.spent)]:
            kind = before.get((frame.kid, frame.counter, self.octets[frame.index]))
            if kind is None:
                self._refuse(frame, *otherwise)
            else:
                self._refuse(frame, kind, "the same frame again; it was refused before")

    def _refuse_payload(self, frame: Opened, take: Take, error: PayloadError) -> None:
        """A payload that is refused; past retention, nothing is left to compare a seen counter with."""
        if take is Take.SEEN and error.reason is PayloadRefusal.TOO_OLD:
            self.spent.append(frame)
        else:
            self._refuse(frame, FailureKind(error.reason), str(error))

    def _refuse(self, frame: Opened, kind: FailureKind, detail: str) -> None:
        self._fail(frame.index, kind, detail, frame.kid, frame.counter)

    def _fail(self, index: int, kind: FailureKind, detail: str, kid: bytes | None, counter: int | None) -> None:
        meter = self.meters.get(kid[:8]) if kid is not None else None
        self.verdicts.failures[kind] += 1
        if kind in WAITING and kid is not None and kid[8:] != _TRANSFER_EPOCH:
            self.verdicts.waiting_frames.setdefault(kind, []).append(index)
        self.failures.append(
            Failure(index, self.octets[index], kind, detail, kid, counter, None if meter is None else meter.id)
        )


def _received_at(uplink_ids: set[int]) -> dict[int, datetime]:
    if not uplink_ids:
        return {}
    rows = fetch_rows(
        "SELECT id, received_at FROM concentrators_uplink WHERE id = ANY(%s::bigint[])", int_array(uplink_ids)
    )
    return dict(rows)
