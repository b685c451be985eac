"""Vectors of commands: what a meter is given, one after another, and what it does (docs/frame.md section 10)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import cbor2

from concentrators.simulator.keys import Key
from concentrators.simulator.sealers import METER_SCHEMES, Place
from concentrators.vectors.material import (
    COUNTER,
    DEVICE_KEY,
    HEAD_END_PRIVATE,
    NEW_KEY,
    TIME_S,
    TITLE,
    TRANSFER_KEY,
    Vector,
    Vectors,
    command,
    event,
)
from keyvault.schemes.agreed import public_of

DONE, REFUSED, LATE, NOTHING = "done", "refused", "too late", "nothing"
_REGISTERS = {DONE: "0-0:96.13.0", REFUSED: "0-0:96.13.1", LATE: "0-0:96.13.2"}
BASE = 256 * TIME_S  # counters of commands begin here
_KEY_3 = bytes(range(0xE0, 0x100))


@dataclass
class Meter:
    """A meter of the reference kind (schemes ccm, session, mac) and what it is given; the writer says what it does."""

    identity: str
    scheme: str = "ccm"
    alg: int = 10
    transfer_alg: int = 10
    clock_s: int = TIME_S
    counter: int = COUNTER
    running_s: int = 0
    steps: list[Vector] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = self.counter, self.clock_s
        self._reserved_from = self.counter
        self._key = Key(DEVICE_KEY, self.alg, 1, self.scheme)
        self._newest = {0: BASE - 1, 1: BASE - 1}

    def vector(self) -> Vector:
        """All of it."""
        counter, clock_s = self._first
        return {
            "id": f"command/{self.identity}",
            "kind": "command",
            "scheme": self.scheme,
            "alg": self.alg,
            "system_title": TITLE,
            "epoch": 1,
            "device_key": DEVICE_KEY,
            "transfer_key": TRANSFER_KEY,
            "transfer_alg": self.transfer_alg,
            "interval_minutes": 15,
            "counter": counter,
            "clock": clock_s,
            "steps": self.steps,
        }

    def waits(self, seconds: int) -> Self:
        """Time goes on."""
        self.running_s += seconds
        self.clock_s += seconds if self.clock_s else 0
        return self

    def sends(self, code: int = 40) -> Self:
        """The meter seals an event of its own."""
        payload = event("0-0:96.11.1", code, self.clock_s)
        self._step(sends=payload, frame=self._seal(payload))
        return self

    def takes(self, octets: bytes, says: str, plaintext: bytes | None = None, **more: Any) -> Self:
        """The meter is given octets. ``at_s`` is the second of its answer where that is not its clock's."""
        answer: Vector = {}
        if says != NOTHING:
            number = more.pop("number", None)
            number = cbor2.loads(plaintext)[1] if number is None and plaintext else number
            payload = event(_REGISTERS[says], number, more.pop("at_s", self.clock_s))
            self.counter += more.get("frames_before", 0)
            answer = {"answer_payload": payload, "answer": self._seal(payload)}
        self._step(command=octets, plaintext=plaintext, says=says, **more, **answer)
        return self

    def given(self, says: str, *fields: Any, epoch: int = 1, **more: Any) -> Self:
        """A command of these items, under the next counter."""
        return self.given_octets(says, cbor2.dumps(list(fields), canonical=True), epoch=epoch, **more)

    def given_octets(
        self, says: str, plaintext: bytes, *, epoch: int = 1, key: bytes | None = None, **more: Any
    ) -> Self:
        """A command with that plaintext."""
        self._newest[epoch] = self._newest.get(epoch, BASE - 1) + 1
        alg = self.transfer_alg if epoch == 0 else self._key.alg if epoch == self._key.epoch else self.alg
        key = key or (self._key.octets if epoch == self._key.epoch else None)
        octets = command(self._newest[epoch], plaintext, epoch=epoch, alg=31 if alg == 11 else 30, key=key)
        return self.takes(octets, says, plaintext, **more)

    def brought(self, epoch: int, octets: bytes, alg: int = 10, scheme: str = "ccm") -> Self:
        """The next command brings the meter a key, and it answers under that."""
        self._key, self.counter, self._reserved_from = Key(octets, alg, epoch, scheme), 0, 0
        return self

    def again(self, says: str, step: int = -1, **more: Any) -> Self:
        """The octets of an earlier step once more."""
        before = self.steps[step]
        return self.takes(bytes(before["command"]), says, before.get("plaintext"), **more)

    def boots(self) -> Self:
        """The meter loses its power, and has its clock still."""
        self.running_s = 0
        self._step(boots=True)
        self.counter = self._reserved_from + -(-(self.counter - self._reserved_from) // 256) * 256
        return self

    def _seal(self, payload: bytes) -> bytes | None:
        """A frame under the next counter; None in a session, which has random octets in its name."""
        counter, self.counter = self.counter, self.counter + 1
        if self._key.scheme == "session":
            return None
        return METER_SCHEMES[self._key.scheme].sealer(self._key, TITLE, Place()).seal(counter, payload)

    def _step(self, **what: Any) -> None:
        self.steps.append({"clock": self.clock_s, "running": self.running_s, **what})


def make() -> Vectors:
    """All vectors of commands."""
    for one in (*_known_answers(), *_keys(), *_order(), *_clocks(), *_intervals(), *_dropped(), *_shapes()):
        yield one.vector()


def _known_answers() -> list[Meter]:
    day = TIME_S - 86_400, TIME_S
    clock = Meter("set-clock", counter=0x61A8).sends().given(DONE, 4, 20, TIME_S + 60, 0x61A9, at_s=TIME_S + 60)
    return [
        Meter("read-now").given(DONE, 2, 18, frames_before=1),
        Meter("resend-of-what-it-has-not").given(DONE, 3, 19, *day),
        clock,
        Meter("set-interval").given(DONE, 5, 21, 60, TIME_S + 86_400),
        Meter("set-concentrator").given(REFUSED, 7, 24, bytes.fromhex("0024befffe00c001")),
        Meter("read-now-alg-11", alg=11).given(DONE, 2, 18, frames_before=1),
        Meter("read-now-mac", "mac", 4).given(DONE, 2, 18, frames_before=1),
        Meter("read-now-session", "session").given(DONE, 2, 18, frames_before=1),
    ]


def _set_key(epoch: int = 2, octets: bytes = NEW_KEY, alg: int = 10, *more: Any, number: int = 17) -> tuple[Any, ...]:
    return 1, number, epoch, octets, alg, *more


def _keys() -> list[Meter]:
    head_end = public_of(HEAD_END_PRIVATE)
    refused: dict[str, tuple[Any, ...]] = {
        "scheme-0-of-six-items": _set_key(2, NEW_KEY, 10, 0),
        "unknown-scheme": _set_key(2, NEW_KEY, 10, 99),
        "unknown-alg": _set_key(2, NEW_KEY, 12),
        "alg-of-another-scheme": _set_key(2, NEW_KEY, 10, 2),
        "key-of-31-octets": _set_key(2, NEW_KEY[1:]),
        "scheme-that-it-does-not-do": (1, 25, 2, NEW_KEY, -65537, 4, head_end),
        "agree-key-without-a-pair": (6, 23, 2, 10, 0, head_end),
        "another-kind-under-the-transfer-key": (2, 18),
    }
    all_of = [Meter(f"set-key/{name}").given(REFUSED, *fields, epoch=0) for name, fields in refused.items()]
    for name, alg, scheme, number in (("ccm", 10, "ccm", ()), ("alg-11", 11, "ccm", ()), ("mac", 5, "mac", (2,))):
        fields = _set_key(2, NEW_KEY, alg, *number)
        all_of.append(Meter(f"set-key/{name}").brought(2, NEW_KEY, alg, scheme).given(DONE, *fields, epoch=0))
    session = Meter("set-key/session").brought(2, NEW_KEY, 10, "session")
    all_of.append(session.given(DONE, *_set_key(2, NEW_KEY, 10, 1, number=22), epoch=0))
    under_alg_11 = Meter("set-key/transfer-key-of-alg-11", transfer_alg=11).brought(2, NEW_KEY, 11)
    all_of.append(under_alg_11.given(DONE, *_set_key(2, NEW_KEY, 11), epoch=0))
    all_of += [
        Meter("set-key/an-epoch-that-it-has").given(DONE, *_set_key(1), epoch=0),
        Meter("set-key/under-the-device-key").given(REFUSED, *_set_key()),
        _second_rotation(),
        _third_key(),
        _old_key_until_the_new(),
    ]
    return all_of


def _second_rotation() -> Meter:
    """The alg belongs to a key: after a key of alg 11 the next comes under the transfer key's alg 30 still."""
    meter = Meter("set-key/after-a-change-to-alg-11").brought(2, NEW_KEY, 11)
    meter.given(DONE, *_set_key(2, NEW_KEY, 11), epoch=0)
    return meter.brought(3, _KEY_3).given(DONE, *_set_key(3, _KEY_3, number=18), epoch=0)


def _third_key() -> Meter:
    """A third key before the head-end heard of the second: the one before the second is gone."""
    meter = Meter("set-key/a-third-before-the-second").brought(2, NEW_KEY).given(DONE, *_set_key(), epoch=0)
    meter.brought(3, _KEY_3).given(DONE, *_set_key(3, _KEY_3, number=18), epoch=0)
    return meter.given(NOTHING, 2, 19, epoch=1, key=DEVICE_KEY)


def _old_key_until_the_new() -> Meter:
    """Commands under the previous epoch are taken until one came under the new."""
    meter = Meter("set-key/the-one-before-until-the-new-is-used").brought(2, NEW_KEY).given(DONE, *_set_key(), epoch=0)
    meter.given(REFUSED, 2, 19, 0, epoch=1, key=DEVICE_KEY)
    meter.given(REFUSED, 2, 20, 0, epoch=2)
    return meter.given(NOTHING, 2, 21, epoch=1, key=DEVICE_KEY)


def _order() -> list[Meter]:
    again = Meter("the-same-again").given(DONE, 3, 19, 0, 1).waits(60).again(DONE, at_s=TIME_S)
    refused = Meter("the-same-again-after-a-refusal").given(REFUSED, 9, 19).waits(60).again(REFUSED, at_s=TIME_S)
    boots = Meter("the-same-again-after-a-boot").given(DONE, 3, 19, 0, 1).boots().again(DONE, 0, at_s=TIME_S)
    key = Meter("set-key/the-same-again").brought(2, NEW_KEY).given(DONE, *_set_key(), epoch=0).waits(5)
    key.again(DONE, at_s=TIME_S)
    old = Meter("an-older-one").given(DONE, 3, 19, 0, 1).given(DONE, 3, 20, 0, 1).again(NOTHING, 0)
    lanes = Meter("under-each-key-a-counter-of-its-own").brought(2, NEW_KEY).given(DONE, *_set_key(), epoch=0)
    lanes.takes(command(5, cbor2.dumps([9, 18]), epoch=2, key=NEW_KEY), REFUSED, cbor2.dumps([9, 18]))
    return [again, refused, boots, key, old, lanes]


def _clocks() -> list[Meter]:
    def at(name: str, **more: Any) -> Meter:
        return Meter(f"set-clock/{name}", counter=0x61A8, **more)

    new, late = TIME_S + 9000, {"at_s": TIME_S + 9000}
    no_time = Meter("without-a-time", clock_s=0, counter=0x61A8)
    no_time.given(REFUSED, 2, 18, at_s=TIME_S).given(LATE, 4, 19, new, 0, **late)
    no_time.clock_s = 0
    no_time.given(DONE, 4, 19, new, 0x61AA, **late)
    return [
        at("three-items").sends().given(LATE, 4, 20, new, **late),
        at("nothing-heard").sends().given(LATE, 4, 20, new, 0, **late),
        at("no-frame-yet").given(LATE, 4, 20, new, 1, **late),
        at("at-600-seconds").sends().waits(600).given(DONE, 4, 20, new, 0x61A9, **late),
        at("after-600-seconds").sends().waits(601).given(LATE, 4, 20, new, 0x61A9, **late),
        at("of-a-frame-not-sealed-yet").sends().given(LATE, 4, 20, new, 0x61AA, **late),
        at("of-a-frame-before-the-mark").sends().waits(700).sends(41).given(LATE, 4, 20, new, 0x61A9, **late),
        at("again-after-too-late").sends().waits(900).given(LATE, 4, 20, new, 0x61A9, **late)
        .given(DONE, 4, 20, new + 60, 0x61AA, at_s=new + 60),
        at("before-the-last-boot").sends().boots().given(LATE, 4, 20, new, 0x61A9, **late),
        no_time,
    ]  # fmt: skip


def _intervals() -> list[Meter]:
    future = TIME_S + 86_400
    return [
        Meter("set-interval/that-it-has").given(DONE, 5, 21, 15, future),
        Meter("set-interval/that-it-cannot-measure").given(REFUSED, 5, 21, 7, future),
        Meter("set-interval/0-minutes").given(REFUSED, 5, 21, 0, future),
        Meter("set-interval/off-the-grid").given(REFUSED, 5, 21, 60, future + 900),
        Meter("set-interval/intervals-are-over").given(REFUSED, 5, 21, 60, TIME_S - 86_400),
        Meter("set-interval/twice").given(DONE, 5, 21, 60, future).given(DONE, 5, 22, 60, future),
    ]


def _dropped() -> list[Meter]:
    plaintext = cbor2.dumps([2, 18])
    good = command(BASE, plaintext)
    other_title, kid = TITLE[:-1] + b"\xf2", TITLE + b"\x00\x01"
    octets: dict[str, bytes] = {
        "changed-tag": good[:-1] + bytes((good[-1] ^ 1,)),
        "changed-counter": good.replace(b"\x69\x55\xb9\x00\x00", b"\x69\x55\xb9\x00\x01"),
        "cut-off": good[:-1],
        "octets-after-the-end": good + b"\x00",
        "longer-head": good.replace(b"\xa0\x53", b"\xa0\x58\x13"),
        "another-title": command(BASE, plaintext, kid=other_title + b"\x00\x01"),
        "another-epoch": command(BASE, plaintext, kid=TITLE + b"\x00\x02"),
        "another-alg": command(BASE, plaintext, alg=31),
        "an-uplink-alg": command(BASE, plaintext, alg=10),
        "another-key": command(BASE, plaintext, key=NEW_KEY),
        "the-transfer-key-under-epoch-1": command(BASE, plaintext, key=TRANSFER_KEY, kid=kid),
        "noise": bytes(range(60)),
        "no-octets": b"",
    }
    meters = [Meter(f"dropped/{name}").takes(one, NOTHING) for name, one in octets.items()]
    for meter in meters:
        meter.takes(good, DONE, plaintext, frames_before=1)  # the right one is taken after it
    return meters


def _shapes() -> list[Meter]:
    refused: dict[str, bytes] = {
        "unknown-kind": cbor2.dumps([99, 30]),
        "kind-0": cbor2.dumps([0, 30]),
        "an-item-too-many": cbor2.dumps([2, 30, 1]),
        "an-item-missing": cbor2.dumps([3, 30, 1]),
        "text-for-a-number": cbor2.dumps([3, 30, "1", 2]),
        "a-negative-number": cbor2.dumps([4, 30, -1, 1]),
        "octets-after-the-array": cbor2.dumps([2, 30]) + b"\x00",
        "longer-heads": bytes.fromhex("821802181e"),
        "indefinite-array": bytes.fromhex("9f02181eff"),
        "twenty-five-items": cbor2.dumps([2, 30, *range(23)]),
        "number-of-16-digits": cbor2.dumps([9, 2**53 - 1]),
    }
    dropped: dict[str, bytes] = {
        "no-array": cbor2.dumps({2: 30}),
        "no-number": cbor2.dumps([2]),
        "text-for-the-number": cbor2.dumps([2, "30"]),
        "negative-number": cbor2.dumps([2, -30]),
        "negative-kind": cbor2.dumps([-2, 30]),
        "empty-array": b"\x80",
        "no-cbor": b"\xff",
        "nothing": b"",
    }
    number: Callable[[bytes], int] = lambda octets: 2**53 - 1 if len(octets) > 10 and octets[1] == 9 else 30  # noqa: E731
    return [
        *(Meter(f"shape/{name}").given_octets(REFUSED, one, number=number(one)) for name, one in refused.items()),
        *(Meter(f"shape/{name}").given_octets(NOTHING, one) for name, one in dropped.items()),
    ]
