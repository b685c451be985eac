"""Vectors of content ``masked``: a value under the masks of two authorities, in each envelope, and what is refused."""

from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.vectors.frames import EVENT, HPKE_PSK, frame, sealed_in
from concentrators.vectors.material import COUNTER, METER_PRIVATE, TIME_S, TITLE, Vector, Vectors, ccm, energy
from keyvault.masking.masks import MASKED_OCTETS, VALUE_MAX, Cell, mask, mask_key, masked
from keyvault.schemes.agreed import public_of
from meters.readings.obis import LOAD_PROFILE

_CELL = Cell(LOAD_PROFILE, TIME_S, 30)
_AUTHORITIES = bytes((0x11,)) * 32, bytes((0x12,)) * 32
_SCHEME = "ccm + masked"


def make() -> Vectors:
    """All vectors of masked values."""
    payload = _pack(_masked(112))
    for envelope, alg in (("ccm", 10), ("session", 10), ("mac", 4), ("sealed", HPKE_PSK)):
        octets, more = sealed_in(envelope, COUNTER, payload, alg)
        yield frame(f"masked/in-{envelope}", octets, **_told(112), **more, scheme=f"{envelope} + masked")
    for value in (0, VALUE_MAX):
        pack = _pack(_masked(value))
        yield frame(f"masked/value-{value}", ccm(COUNTER, pack), counter=COUNTER, **_told(value), scheme=_SCHEME)
    for name, pack in {"event": EVENT, "two-intervals": _two_intervals()}.items():
        yield frame(f"masked/{name}", ccm(COUNTER, pack), counter=COUNTER, payload=pack, scheme=_SCHEME)
    for verdict, packs in _refused(payload).items():
        for name, pack in packs.items():
            more = {"counter": COUNTER, "payload": pack, "scheme": _SCHEME}
            yield frame(f"masked/{name}", ccm(COUNTER, pack), verdict, **more)
    before = {"before": [ccm(COUNTER, payload)], "scheme": _SCHEME}
    yield frame("masked/the-same-value-sealed-again", ccm(COUNTER + 1, payload), **before)
    other = ccm(COUNTER + 1, _pack(_masked(113)))
    yield frame("masked/another-value-for-the-interval", other, "reading_conflict", **before)
    yield frame("masked/from-a-meter-that-does-not-mask", ccm(COUNTER, payload), "payload_invalid", payload=payload)


def _refused(payload: bytes) -> dict[str, dict[str, bytes]]:
    """By verdict."""
    value = _masked(112)
    records = [_record(value), {0: "0-0:96.11.1", 1: "count", 2: 40, 6: 1}]
    return {
        "algorithm_mismatch": {
            "plain-interval": energy(112),
            "plain-register": energy(1_234_567, register="1-0:1.8.0"),
            "plain-beside-masked": cbor2.dumps([_record(value), {0: "1-0:1.8.0", 1: "Wh", 2: 1_234_567}]),
        },
        "payload_invalid": {
            "seven-octets": _pack(value[1:]),
            "nine-octets": _pack(b"\x00" + value),
            "no-octets": _pack(b""),
            "number-for-octets": cbor2.dumps([_record(b"") | {8: 112}]),
            "text-for-octets": cbor2.dumps([_record(b"") | {8: "pmeBQzbgwms"}]),
            "register-that-is-never-masked": cbor2.dumps([_record(value) | {0: "1-0:1.8.0"}]),
            "event-beside-masked": cbor2.dumps(records),
            "octets-after-the-pack": payload + b"\x00",
        },
        "registry_mismatch": {"off-the-grid": cbor2.dumps([_record(value) | {-3: TIME_S + 60}])},
    }


def _told(value: int) -> Vector:
    """What such a vector says of how the value was masked."""
    own = public_of(METER_PRIVATE)
    return {
        "payload": _pack(_masked(value)),
        "value": value,
        "masked": _masked(value),
        "mask_private": METER_PRIVATE,
        "mask_public": own,
        "mask_authorities": [public_of(one) for one in _AUTHORITIES],
        "mask_keys": _keys(),
        "masks": [mask(key, TITLE, _CELL).to_bytes(MASKED_OCTETS, "big") for key in _keys()],
    }


def _keys() -> list[bytes]:
    private, own = X25519PrivateKey.from_private_bytes(METER_PRIVATE), public_of(METER_PRIVATE)
    return [mask_key(private, public_of(one), TITLE, own, public_of(one)) for one in _AUTHORITIES]


def _masked(value: int, start_s: int = TIME_S) -> bytes:
    return masked(value, _keys(), TITLE, _CELL._replace(start_s=start_s)).to_bytes(MASKED_OCTETS, "big")


def _record(value: bytes) -> dict[Any, Any]:
    return {-1: 26, -3: TIME_S, 0: LOAD_PROFILE, 1: "Wh", 8: value}


def _pack(value: bytes) -> bytes:
    return cbor2.dumps([_record(value)])


def _two_intervals() -> bytes:
    start = TIME_S + 1800
    return cbor2.dumps([_record(_masked(112)), {0: LOAD_PROFILE, 1: "Wh", 6: 1800, 8: _masked(113, start)}])
