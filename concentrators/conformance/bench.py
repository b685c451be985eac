"""The bench of a run: gives octets to a laboratory meter over its concentrator, and listens to what it says."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import cbor2
from django.db.models import Sum
from django.utils import timezone

from concentrators.commands.queue import OPEN
from concentrators.conformance import offers
from concentrators.fleet.assignments import holding
from concentrators.models import Command, Concentrator, HopFailure, RepeatedUplink, Uplink
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, split_sequence
from keyvault.device_keys import bench as keys
from keyvault.device_keys.bench import AS_IT_IS, Disguise
from keyvault.schemes.agreed import AGREED
from keyvault.schemes.table import HOP
from meters.contents.plain import NAME_PREFIX
from meters.models import Meter, Reading
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED, LOAD_PROFILE
from meters.readings.senml import SenMLError, SenmlRecord, parse_pack

DONE, REFUSED, LATE = "done", "refused", "too late"
_SAYS = {COMMAND_DONE: DONE, COMMAND_REFUSED: REFUSED, COMMAND_LATE: LATE}


class MismatchError(Exception):
    """The meter did something else than docs/frame.md says; the message says what."""


class Answer(NamedTuple):
    """What the meter says of a command: done, refused or too late, in the name of which second."""

    said: str
    second: int


class Timing(NamedTuple):
    """How long to wait, in seconds: for an answer, for one that must not come, between looks, and to hold back."""

    answer_s: float = 180
    silence_s: float = 20
    poll_s: float = 1
    hold_s: float = 660


class Order(NamedTuple):
    """A command that was sealed: its octets and number."""

    octets: bytes
    number: int


class Bench:
    """One laboratory meter at its concentrator."""

    def __init__(self, meter: Meter, timing: Timing, sleep: Callable[[float], None] = time.sleep) -> None:
        self.meter, self.timing = meter, timing
        self.title = bytes(meter.system_title)
        self._sleep = sleep
        self.mark()

    @property
    def epoch(self) -> int:
        """The epoch of the key under which the meter sends, as far as it was heard."""
        return keys.active_epoch(self.title)

    def now_s(self) -> int:
        return int(timezone.now().timestamp())

    def heard(self) -> int:
        """How far the meter's counter was heard."""
        return keys.heard(self.title, self.epoch)

    def order(self, kind: int, *fields: Any, epoch: int | None = None, disguise: Disguise = AS_IT_IS) -> Order:
        """Seal a command of these items, with a number of its own."""
        [number] = offers.numbers(1)
        plaintext = cbor2.dumps([kind, number, *fields], canonical=True)
        return self.order_of(plaintext, number, epoch, disguise)

    def order_of(self, plaintext: bytes, number: int, epoch: int | None = None, disguise: Disguise = AS_IT_IS) -> Order:
        """Seal a command of any octets."""
        under = self.epoch if epoch is None else epoch
        return Order(keys.seal(self.title, under, plaintext, number, timezone.now(), disguise), number)

    def ask(self, order: Order) -> Answer:
        """Give the meter a command, and wait for its answer. MismatchError where none comes."""
        self.give([order.octets])
        return self.wait_for(order.number)

    def numbers(self) -> list[int]:
        """A number that no command has."""
        return offers.numbers(1)

    @property
    def has_agreed_keys(self) -> bool:
        """Whether the meter agrees on its keys."""
        return keys.source_of(self.title, self.epoch) == AGREED.name

    @property
    def is_opened_at_concentrator(self) -> bool:
        """Whether the meter's readings are opened by its concentrator, which reports them."""
        return keys.scheme_of(self.title, self.epoch) == HOP

    @property
    def concentrator_title(self) -> bytes | None:
        """The system title of the meter's concentrator, if it has one."""
        row = self._concentrator()
        return None if row.system_title is None else bytes(row.system_title)

    def _concentrator(self) -> Concentrator:
        return Concentrator.objects.get(assignments__in=holding(timezone.now()).filter(meter=self.meter))

    def dropped_at_concentrator(self) -> int:
        """How many frames of the meter its concentrator says it dropped."""
        return HopFailure.objects.filter(meter=self.meter).aggregate(frames=Sum("frames"))["frames"] or 0

    def lose_next_uplink(self) -> None:
        """Lose the next uplink of the meter's concentrator: it is acknowledged, and nobody ever sees it."""
        offers.lose(self.meter, 1)

    def has_lost(self) -> bool:
        """Whether an uplink was lost since."""
        return not offers.are_to_lose(self.meter)

    def mark(self) -> None:
        """Listen to what comes from now on."""
        self._since, self._since_again = _newest(Uplink), _newest(RepeatedUplink)

    def give(self, octets: Sequence[bytes]) -> None:
        """Give the meter octets, one after another. MismatchError where its concentrator does not take them."""
        self.mark()
        given = offers.put(self.meter, octets)
        if not self._until(lambda: offers.are_delivered(given), self.timing.answer_s):
            raise MismatchError("its concentrator does not fetch commands, or does not acknowledge them")

    def wait_for(self, number: int) -> Answer:
        """The newest answer to a command, of what was said since octets were last given."""
        found: list[Answer] = []

        def look() -> bool:
            found[:] = self.answers(number)
            return bool(found)

        if not self._until(look, self.timing.answer_s):
            raise MismatchError(f"no answer to command {number} within {self.timing.answer_s:g} seconds")
        return found[-1]

    def expect(self, order: Order, said: str, second: int | None = None) -> Answer:
        """Give a command, and compare its answer."""
        return self.compare(self.ask(order), said, second)

    def compare(self, answer: Answer, said: str, second: int | None = None) -> Answer:
        """MismatchError where an answer is another one."""
        if answer.said != said:
            raise MismatchError(f"it answers {answer.said}, where it has to answer {said}")
        if second is not None and answer.second != second:
            raise MismatchError(f"it answers {said} at second {answer.second}, not {second}")
        return answer

    def expect_silence(self, octets: bytes, number: int | None = None) -> None:
        """Give octets that the meter has to drop. MismatchError where it answers ``number``, or any command."""
        self.give([octets])
        if self._until(lambda: bool(self.answers(number)), self.timing.silence_s):
            raise MismatchError("it answers octets that it has to drop silently")

    def answers(self, number: int | None = None) -> list[Answer]:
        """What the meter has said of a command, or of any, since octets were last given."""
        return [
            Answer(_SAYS[record.name], record.time_s)
            for record in self.records()
            if record.name in _SAYS and number in (None, int(record.value))
        ]

    def records(self) -> list[SenmlRecord]:
        """All records of the meter since octets were last given: in its frames, and in reports of its concentrator."""
        prefix = f"{NAME_PREFIX}{self.title.hex()}:"
        bodies = self._bodies()
        records = _records_of(keys.open_frames(self.title, self._naming(self.title, bodies)))
        if self.is_opened_at_concentrator and (title := self.concentrator_title) is not None:
            reported = _records_of(keys.open_frames(title, self._naming(title, bodies)))
            records += [one for one in reported if one.name.startswith(prefix)]
        return [one._replace(name=one.name.removeprefix(prefix)) for one in records]

    def frames(self) -> list[keys.BenchFrame]:
        """The meter's frames since octets were last given, opened."""
        return keys.open_frames(self.title, self._naming(self.title, self._bodies()))

    def _bodies(self) -> list[bytes]:
        """The bodies of all uplinks since octets were last given."""
        uplinks = Uplink.objects.filter(pk__gt=self._since, body__isnull=False).order_by("pk")
        again = RepeatedUplink.objects.filter(pk__gt=self._since_again, uplink__body__isnull=False).order_by("pk")
        found = [*uplinks.values_list("body", flat=True), *again.values_list("uplink__body", flat=True)]
        return [bytes(body or b"") for body in found]

    @staticmethod
    def _naming(title: bytes, bodies: Sequence[bytes]) -> list[bytes]:
        """The frames in these bodies that a title could have sealed."""
        frames = [octets for body in bodies for octets in split_sequence(body)]
        return [octets for octets in frames if title in octets[: 3 * SYSTEM_TITLE_OCTETS]]

    def intervals(self, from_s: int, to_s: int) -> dict[int, int]:
        """The intervals of the load profile that the head-end has, by their start."""
        period = datetime.fromtimestamp(from_s, UTC), datetime.fromtimestamp(to_s, UTC)
        rows = Reading.objects.filter(
            meter=self.meter, register__obis_code=LOAD_PROFILE, captured_at__gte=period[0], captured_at__lt=period[1]
        )
        return {int(at.timestamp()): value for at, value in rows.values_list("captured_at", "value")}

    def open_commands(self) -> list[int]:
        """The numbers of commands of the head-end's own that the meter has yet to answer, once it had time to."""
        rows = Command.objects.filter(meter=self.meter, state__in=OPEN).order_by("pk")
        self._until(lambda: not rows.exists(), self.timing.answer_s)
        return list(rows.values_list("pk", flat=True))

    def hold_back(self) -> None:
        """Let as much time pass as a set clock command may not be held back for."""
        self._sleep(self.timing.hold_s)

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something is so. MismatchError where it does not come."""
        if not self._until(is_so, self.timing.answer_s):
            raise MismatchError(f"{what} within {self.timing.answer_s:g} seconds")

    def _until(self, is_so: Callable[[], bool], within_s: float) -> bool:
        end = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() >= end:
                return False
            self._sleep(self.timing.poll_s)
        return True


def _records_of(frames: Sequence[keys.BenchFrame]) -> list[SenmlRecord]:
    records: list[SenmlRecord] = []
    for frame in frames:
        with suppress(SenMLError):
            records += parse_pack(frame.payload)
    return records


def _newest(model: type[Uplink] | type[RepeatedUplink]) -> int:
    return model.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
