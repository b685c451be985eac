"""What is done to octets: one to four small changes, all from one source of chance, so that a seed repeats them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

import cbor2

_Operator = Callable[[bytearray, Random], None]
_EDGES = (0x00, 0x01, 0x17, 0x18, 0x1B, 0x1F, 0x40, 0x58, 0x7E, 0x7F, 0x80, 0x81, 0x84, 0x9F, 0xA0, 0xD0, 0xFE, 0xFF)
_MOST_MORE = 600  # octets that one change adds at most


def _bit(some: bytearray, chance: Random) -> None:
    some[chance.randrange(len(some))] ^= 1 << chance.randrange(8)


def _octet(some: bytearray, chance: Random) -> None:
    some[chance.randrange(len(some))] = chance.randrange(256)


def _edge(some: bytearray, chance: Random) -> None:
    """An octet where lengths, types and links turn: of CBOR, A-XDR, BER, HDLC."""
    some[chance.randrange(len(some))] = chance.choice(_EDGES)


def _step(some: bytearray, chance: Random) -> None:
    """One more or one less: a length, a number of parts or a counter that is off by one."""
    at = chance.randrange(len(some))
    some[at] = (some[at] + chance.choice((-1, 1))) & 0xFF


def _cut(some: bytearray, chance: Random) -> None:
    del some[chance.randrange(len(some)) :]


def _delete(some: bytearray, chance: Random) -> None:
    at = chance.randrange(len(some))
    del some[at : at + chance.randint(1, 8)]


def _insert(some: bytearray, chance: Random) -> None:
    at = chance.randrange(len(some) + 1)
    some[at:at] = chance.randbytes(chance.randint(1, 8))


def _repeat(some: bytearray, chance: Random) -> None:
    """A part of it, again and again in the same place: nesting, rows, segments."""
    at = chance.randrange(len(some))
    part = some[at : at + chance.randint(1, 24)]
    some[at:at] = (part * chance.choice((1, 2, 16, 200)))[:_MOST_MORE]


def _swap(some: bytearray, chance: Random) -> None:
    one, other = sorted((chance.randrange(len(some)), chance.randrange(len(some))))
    some[:] = some[other:] + some[one:other] + some[:one]


def _number(some: bytearray, chance: Random) -> None:
    """A number of 2, 4 or 8 octets at its least or most."""
    at, octets = chance.randrange(len(some)), chance.choice((2, 4, 8))
    some[at : at + octets] = chance.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * octets


_OPERATORS: tuple[_Operator, ...] = (_bit, _octet, _edge, _step, _cut, _delete, _insert, _repeat, _swap, _number)
_SPLICED = 0.06  # of all mutants: the beginning of one and the end of another


def mutated(some: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Octets that ``chance`` has changed; seldom the same again. ``others`` lend what is spliced in."""
    result = bytearray(some)
    if chance.random() < _SPLICED:
        other = chance.choice(others)
        result[chance.randrange(len(result) + 1) :] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        if result:
            chance.choice(_OPERATORS)(result, chance)
    return bytes(result)


_VALUES: tuple[Any, ...] = (
    0, 1, 23, 24, 25, 26, 30, 59, 60, 1_800, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -2**63,
    -2**64, 0.0, -0.5, 1e300, float("nan"), float("inf"), None, True, "", "Wh", "kWh", "count",
    "1-0:1.8.0", "1-0:1.29.0", "0-0:96.11.1", b"", bytes(8), [], {}, [[]], cbor2.CBORTag(2, b"\xff"),
    cbor2.CBORTag(4, [-3, 1_234]),
    cbor2.CBORTag(4, [2**63, 1]),
)  # fmt: skip


def restructured(some: bytes, chance: Random) -> bytes:
    """An item of CBOR with one to three values, labels or parts changed, so that it is one still; others stay as is."""
    try:
        item = cbor2.loads(some)
    except (cbor2.CBORDecodeError, ValueError, TypeError):
        return some
    for _ in range(chance.choice((1, 1, 2, 3))):
        _change(item, chance)
    return cbor2.dumps(item)


def _change(item: Any, chance: Random) -> None:
    """Change something in an array or a map: a value, a label, a part that is gone, or there twice."""
    while isinstance(item, list | dict) and item:
        key = chance.choice(range(len(item)) if isinstance(item, list) else list(item))
        if isinstance(item[key], list | dict) and item[key] and chance.random() < 0.9:
            item = item[key]
            continue
        value, what = item[key], chance.randrange(4)
        if what == 0:
            del item[key]
        elif what == 1 and isinstance(item, list):
            item.insert(key, value)
        elif what == 1:
            item[chance.choice((*range(-8, 14), "0", key))] = value
        elif what == 2 and isinstance(value, int):
            item[key] = value + chance.choice((-1, 1, 30, 60, 1_800, -value * 2, 2 ** chance.randrange(64)))
        else:
            new = chance.choice(_VALUES)
            item[key] = deepcopy(new) if isinstance(new, list | dict) else new  # later changes are made in it
        return
