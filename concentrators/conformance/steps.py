"""The steps of a conformance run: each gives a meter commands, and knows what docs/frame.md says it does. A table."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import cbor2
from django.utils import timezone

from concentrators.commands import queue
from concentrators.conformance.bench import DONE, LATE, REFUSED, Bench, MismatchError, Order
from concentrators.models import Command, CommandState
from keyvault.device_keys.bench import Disguise
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from meters.readings.obis import LOAD_PROFILE, STANDARD_REGISTERS, RegisterKind

SET_KEY, READ_NOW, RESEND, SET_CLOCK, SET_INTERVAL, AGREE_KEY, SET_CONCENTRATOR = 1, 2, 3, 4, 5, 6, 7
_NO_KIND = 99
_ALG = 10
_KEY = bytes(range(0x40, 0x60))  # refused, and so never anybody's
_CUMULATIVE = {one.obis_code for one in STANDARD_REGISTERS if one.kind is RegisterKind.CUMULATIVE}
_CLOCK_TRIES = 4  # the first may be too late, the next brings how far it was heard then
_LOSS_TRIES = 3  # what is lost may be another frame of the meter than the answer
_DAY_S = 86_400
_BACK_S = 6 * 3600


class LeftOutError(Exception):
    """A step that cannot be done now; the message says what it lacks."""


class Step(NamedTuple):
    """A step: its name, what the meter has to do, and how that is tried (MismatchError, LeftOutError)."""

    name: str
    rule: str
    try_: Callable[[Bench], None]


def _read_now(bench: Bench) -> None:
    bench.expect(bench.order(READ_NOW), DONE)
    if not any(one.name in _CUMULATIVE for one in bench.records()):
        raise MismatchError("it answers done, and sends no cumulative register")


def _same_again(bench: Bench) -> None:
    order = bench.order(READ_NOW)
    first = bench.expect(order, DONE)
    bench.expect(order, DONE, first.second)


def _twice_at_once(bench: Bench) -> None:
    order = bench.order(READ_NOW)
    bench.give([order.octets, order.octets])
    bench.until(lambda: len(bench.answers(order.number)) >= 2, "one answer to a command that came twice, not two,")
    if len(set(bench.answers(order.number))) > 1:
        raise MismatchError("the same command has two different answers")


def _older(bench: Bench) -> None:
    older = bench.order(_NO_KIND)
    bench.expect(bench.order(_NO_KIND), REFUSED)
    bench.expect_silence(older.octets)


def _lost(bench: Bench) -> None:
    bench.order(READ_NOW)  # nobody ever gives it to the meter
    bench.expect(bench.order(READ_NOW), DONE)


def _damaged(bench: Bench) -> None:
    order = bench.order(_NO_KIND)
    middle = len(order.octets) // 2
    for at in (-1, middle, 21):  # tag, ciphertext, counter
        octets = bytearray(order.octets)
        octets[at] ^= 1
        bench.expect_silence(bytes(octets))
    bench.expect_silence(order.octets[:-1])
    bench.expect(order, REFUSED)


def _dropped(disguise: Callable[[Bench], Disguise]) -> Callable[[Bench], None]:
    def attempt(bench: Bench) -> None:
        order = bench.order(_NO_KIND, disguise=disguise(bench))
        bench.expect_silence(order.octets)

    return attempt


def _other_title(bench: Bench) -> Disguise:
    return Disguise(kid=bytes(8) + bench.epoch.to_bytes(2, "big"))


def _other_epoch(bench: Bench) -> Disguise:
    return Disguise(kid=bench.title + (bench.epoch + 1).to_bytes(2, "big"))


def _refused(*fields: int | str | bytes, epoch: int | None = None) -> Callable[[Bench], None]:
    """A command of a kind or shape that no meter knows."""

    def attempt(bench: Bench) -> None:
        bench.expect(bench.order(*fields, epoch=epoch), REFUSED)  # type: ignore[arg-type]  # text is what is wrong

    return attempt


def _of_octets(plaintext: Callable[[int], bytes], said: str | None) -> Callable[[Bench], None]:
    def attempt(bench: Bench) -> None:
        [number] = bench.numbers()
        order = bench.order_of(plaintext(number), number)
        if said is None:
            bench.expect_silence(order.octets)
        else:
            bench.expect(order, said)

    return attempt


def _resend(bench: Bench) -> None:
    to_s = bench.now_s()
    stored = bench.intervals(to_s - _BACK_S, to_s)
    if not stored:
        raise LeftOutError("the head-end has no interval of the last six hours: let the meter send one")
    bench.expect(bench.order(RESEND, min(stored), max(stored) + 1), DONE)
    again = {one.time_s: one.value for one in bench.records() if one.name == LOAD_PROFILE}
    for start, value in again.items():
        if start in stored and stored[start] != value:
            raise MismatchError(f"it sends {value} for the interval from {start}, and sent {stored[start]} before")
    if not set(again) & set(stored):
        raise MismatchError(f"it answers done, and sends none of {len(stored)} intervals")
    outside = [start for start in again if not min(stored) <= start <= max(stored)]
    if outside:
        raise MismatchError(f"it sends the interval from {outside[0]}, which was not asked for")


def _resend_of_nothing(bench: Bench) -> None:
    bench.expect(bench.order(RESEND, 0, 1), DONE)


def _clock_too_late(*heard: Callable[[Bench], int]) -> Callable[[Bench], None]:
    """A set clock with that item, or with none, which the meter must not believe."""

    def attempt(bench: Bench) -> None:
        time_s = bench.now_s()
        bench.expect(bench.order(SET_CLOCK, time_s, *(item(bench) for item in heard)), LATE, time_s)

    return attempt


def _set_clock(bench: Bench) -> None:
    order, time_s = _set_in_time(bench)
    bench.expect(order, DONE, time_s)


def _set_in_time(bench: Bench) -> tuple[Order, int]:
    """A set clock that the meter took, and the time in it: too late at first, perhaps, as in the field."""
    for _ in range(_CLOCK_TRIES):
        time_s = bench.now_s()
        order = bench.order(SET_CLOCK, time_s, bench.heard())
        answer = bench.ask(order)
        if answer.said == DONE:
            bench.compare(answer, DONE, time_s)
            return order, time_s
        bench.compare(answer, LATE, time_s)
    raise MismatchError(f"it is too late {_CLOCK_TRIES} times, each right after a frame of its own was heard")


def _clock_held_back(bench: Bench) -> None:
    if not bench.timing.hold_s:
        raise LeftOutError("it takes 11 minutes: run without --hold 0")
    bench.expect(bench.order(READ_NOW), DONE)
    time_s = bench.now_s()
    order = bench.order(SET_CLOCK, time_s, bench.heard())
    bench.hold_back()
    bench.expect(order, LATE, time_s)


def _interval(said: str, minutes: Callable[[int], int], from_s: int = 0) -> Callable[[Bench], None]:
    """A set interval: the minutes by those that the meter has, from a midnight ahead and that many seconds on."""

    def attempt(bench: Bench) -> None:
        start_s = (bench.now_s() // _DAY_S + 2) * _DAY_S + from_s
        bench.expect(bench.order(SET_INTERVAL, minutes(bench.meter.interval_minutes), start_s), said)

    return attempt


def _other_length(minutes: int) -> int:
    return 30 if minutes == 60 else 60


def _key_refused(kind: int, *fields: object, epoch: int | None = TRANSFER_EPOCH) -> Callable[[Bench], None]:
    """A key command with these items after its epoch that the meter refuses, so that it keeps its key."""

    def attempt(bench: Bench) -> None:
        if kind == AGREE_KEY and bench.has_agreed_keys:
            raise LeftOutError("the meter agrees on its keys: each of its new keys comes by this command")
        bench.expect(bench.order(kind, bench.epoch + 1, *fields, epoch=epoch), REFUSED)
        bench.expect(bench.order(_NO_KIND), REFUSED)  # under the old key still

    return attempt


def _key_that_it_has(bench: Bench) -> None:
    """As if the answer to the command that brought it had been lost, and the command were sealed again."""
    order = bench.order(SET_KEY, bench.epoch, secrets.token_bytes(32), _ALG, epoch=TRANSFER_EPOCH)
    bench.expect(order, DONE)
    bench.expect(bench.order(_NO_KIND), REFUSED)  # under the key that it has


def _rotate(bench: Bench) -> Command:
    """A new key by the usual way; the command that brought it."""
    bench.mark()
    [command] = queue.enqueue_keys([bench.meter], "conform", timezone.now())
    bench.until(lambda: _state(command) == CommandState.DONE, "no frame under the new key")
    return Command.objects.get(pk=command.pk)


def _state(command: Command) -> str:
    return Command.objects.values_list("state", flat=True).get(pk=command.pk)


def _new_key(bench: Bench) -> None:
    before = bench.epoch
    command = _rotate(bench)
    if bench.epoch != before + 1:
        raise MismatchError(f"it sends under epoch {bench.epoch}, not {before + 1}")
    first = [one for one in bench.frames() if one.epoch == before + 1]
    if not first or not bench.answers(command.pk):
        raise MismatchError("it sends under the new key, and never answered the command that brought it")
    bench.expect(Order(bytes(command.octets or b""), command.pk), DONE, bench.answers(command.pk)[-1].second)


def _old_key(bench: Bench) -> None:
    old = bench.epoch
    order = bench.order(_NO_KIND)
    _rotate(bench)
    bench.expect(order, REFUSED)  # sealed before, under the previous epoch: taken until one came under the new
    late = bench.order(_NO_KIND, epoch=old)
    bench.expect(bench.order(_NO_KIND), REFUSED)
    bench.expect_silence(late.octets)


def _lose_answer(bench: Bench, order: Order) -> None:
    """Give a command, and lose what the meter sends next on its way; LeftOutError where that was something else."""
    bench.lose_next_uplink()
    bench.give([order.octets])
    bench.until(bench.has_lost, "no uplink")
    if bench.answers(order.number):
        raise LeftOutError("another frame of the meter was lost in the place of its answer: try again")


def _answer_lost(bench: Bench) -> None:
    for _ in range(_LOSS_TRIES):
        order = bench.order(READ_NOW)
        with suppress(LeftOutError):
            _lose_answer(bench, order)
            break
    first = bench.expect(order, DONE)  # the same octets again, as nobody answered
    bench.expect(order, DONE, first.second)


def _clock_answer_lost(bench: Bench) -> None:
    """The head-end seals it again, with its number and another time: to the meter it is another command."""
    order, _ = _set_in_time(bench)
    later = bench.order(SET_CLOCK, bench.now_s(), bench.heard())
    _lose_answer(bench, later)
    time_s = bench.now_s()
    plaintext = cbor2.dumps([SET_CLOCK, later.number, time_s, bench.heard()], canonical=True)
    bench.expect(bench.order_of(plaintext, later.number), DONE, time_s)
    bench.expect_silence(order.octets, order.number)


def _set_concentrator(bench: Bench) -> None:
    title = bench.concentrator_title
    if title is None:
        raise LeftOutError("its concentrator has no system title: manage.py concentrator --help")
    dropped = bench.dropped_at_concentrator()
    said = {bench.ask(bench.order(SET_CONCENTRATOR, title)).said for _ in range(2)}
    if said != {DONE} and (bench.is_opened_at_concentrator or said != {REFUSED}):
        raise MismatchError(f"it answers {' and '.join(sorted(said))} to the title of its concentrator, twice the same")
    bench.expect(bench.order(READ_NOW), DONE)  # in frames for that concentrator
    if bench.dropped_at_concentrator() > dropped:
        raise MismatchError("its concentrator dropped frames of it: their hop tags do not fit, or are missing")


STEPS: tuple[Step, ...] = (
    Step("read-now", "sends its cumulative registers, and answers done", _read_now),
    Step("the same again", "gives the same answer again, and does nothing else", _same_again),
    Step("twice at once", "gives the same answer twice", _twice_at_once),
    Step("an older counter", "drops it silently", _older),
    Step("one was lost", "takes the next one", _lost),
    Step("damaged", "drops it silently, and takes the right octets afterwards", _damaged),
    Step("another title in the kid", "drops it silently", _dropped(_other_title)),
    Step("another epoch in the kid", "drops it silently", _dropped(_other_epoch)),
    Step("another alg", "drops it silently", _dropped(lambda _: Disguise(algorithm=11))),
    Step("another key", "drops it silently", _dropped(lambda _: Disguise(another_key=True))),
    Step("an unknown kind", "answers refused", _refused(_NO_KIND)),
    Step("an item too many", "answers refused", _refused(READ_NOW, 1)),
    Step("an item missing", "answers refused", _refused(RESEND, 1)),
    Step("text for a number", "answers refused", _refused(RESEND, "1", 2)),
    Step("a plain command under the transfer key", "answers refused", _refused(READ_NOW, epoch=TRANSFER_EPOCH)),
    Step("longer heads", "answers refused", _of_octets(lambda n: b"\x82\x18\x02\x1b" + n.to_bytes(8, "big"), REFUSED)),
    Step("octets after the array", "answers refused", _of_octets(lambda n: cbor2.dumps([2, n]) + b"\x00", REFUSED)),
    Step("no array", "drops it silently", _of_octets(lambda n: cbor2.dumps({2: n}), None)),
    Step("no number", "drops it silently", _of_octets(lambda _: b"\x81\x02", None)),
    Step("no octets", "drops it silently", _of_octets(lambda _: b"", None)),
    Step("resend", "sends the same values again, and answers done", _resend),
    Step("resend of nothing", "answers done", _resend_of_nothing),
    Step("set clock of three items", "answers too late, at the time in the command", _clock_too_late()),
    Step("set clock, nothing heard", "answers too late", _clock_too_late(lambda _: 0)),
    Step(
        "set clock of a frame not sealed yet",
        "answers too late",
        _clock_too_late(lambda bench: bench.heard() + 1_000_000),
    ),
    Step("set clock", "sets it, answers done at the new time; the same answer again", _set_clock),
    Step("set clock held back", "answers too late", _clock_held_back),
    Step("set interval that it has", "answers done", _interval(DONE, lambda minutes: minutes)),
    Step("set interval of no minutes", "answers refused", _interval(REFUSED, lambda _: 0)),
    Step("set interval off the grid", "answers refused", _interval(REFUSED, _other_length, 60)),
    Step("set interval in the past", "answers refused", _interval(REFUSED, _other_length, -7 * _DAY_S)),
    Step("set key of scheme 0 in six items", "answers refused, keeps its key", _key_refused(SET_KEY, _KEY, _ALG, 0)),
    Step("set key of an unknown scheme", "answers refused, keeps its key", _key_refused(SET_KEY, _KEY, _ALG, 99)),
    Step("set key of an unknown alg", "answers refused, keeps its key", _key_refused(SET_KEY, _KEY, 99)),
    Step("set key under the device key", "answers refused", _key_refused(SET_KEY, _KEY, _ALG, epoch=None)),
    Step("a key that it has", "answers done, and changes nothing", _key_that_it_has),
    Step("agree key of a meter without a pair", "answers refused", _key_refused(AGREE_KEY, _ALG, 0, _KEY)),
    Step("agree key of another shape", "answers refused", _key_refused(AGREE_KEY, _ALG, 0)),
    Step("agree key under the device key", "answers refused", _key_refused(AGREE_KEY, _ALG, 0, _KEY, epoch=None)),
    Step("set concentrator of seven octets", "answers refused", _refused(SET_CONCENTRATOR, bytes(7))),
    Step(
        "set concentrator under the transfer key",
        "answers refused",
        _refused(SET_CONCENTRATOR, bytes(8), epoch=TRANSFER_EPOCH),
    ),
    Step("set concentrator", "uses its title, with hop tags that fit; or answers refused, twice", _set_concentrator),
    Step("its answer is lost", "gives the same answer to the same octets", _answer_lost),
    Step("set clock, its answer is lost", "sets it to the time of the next one", _clock_answer_lost),
    Step("a new key", "sends under it at once; the same answer again", _new_key),
    Step("the key before", "is for commands until one came under the new key", _old_key),
)
