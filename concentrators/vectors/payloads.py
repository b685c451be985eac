"""Vectors of payloads: what docs/frame.md section 6 takes and refuses, in frames of scheme ``ccm``."""

from typing import Any

import cbor2

from concentrators.vectors.frames import frame
from concentrators.vectors.material import COUNTER, TIME_S, TITLE, Vectors, ccm
from meters.readings.obis import LOAD_PROFILE

_WH: dict[Any, Any] = {0: LOAD_PROFILE, 1: "Wh", 2: 112}
_INTERVAL: dict[Any, Any] = {-1: 26, -3: TIME_S} | _WH
_REGISTER: dict[Any, Any] = {-1: 26, -3: TIME_S, 0: "1-0:1.8.0", 1: "Wh", 2: 1_234_567}
_VOLTAGE: dict[Any, Any] = {-3: TIME_S, 0: "1-0:32.7.0", 1: "V"}
_ANOTHER = "urn:dev:mac:0024befffe804ff2:"
_HOUR_S = 3600


def make() -> Vectors:
    """All vectors of payloads."""
    for name, payload in _taken().items():
        yield frame(f"payload/{name}", ccm(COUNTER, payload), counter=COUNTER, payload=payload)
    for verdict, packs in _refused().items():
        for name, payload in packs.items():
            yield frame(f"payload/{name}", ccm(COUNTER, payload), verdict, counter=COUNTER, payload=payload)


def _taken() -> dict[str, bytes]:
    decimal = cbor2.CBORTag(4, [-1, 2298])
    name = f"urn:dev:mac:{TITLE.hex()}:"
    packs = {
        "register-at-the-end": [_INTERVAL, {0: "1-0:1.8.0", 1: "Wh", 2: 1_234_679, 6: 1800}],
        "base-name-is-a-register": [{-1: 26, -3: TIME_S, -2: LOAD_PROFILE, -4: "Wh", 2: 100}, {6: 1800, 2: 101}],
        "names-this-meter": [{-2: name} | _INTERVAL],
        "decimal-fraction": [_VOLTAGE | {2: decimal}],
        "float-that-is-exact": [_INTERVAL | {2: 112.0}],
        "float-time": [_INTERVAL | {-3: float(TIME_S)}],
        "other-order-of-labels": [dict(reversed(_INTERVAL.items()))],
        "unknown-label": [_INTERVAL | {99: "ignored"}],
        "two-codes-in-one-second": [{0: "0-0:96.11.0", 1: "count", 2: code, 6: TIME_S} for code in (1, 2)],
        "bver-10": [{-1: 10, -3: TIME_S, 0: "1-0:32.7.0", 1: "V", 2: 230}],
        "largest-code": [{0: "0-0:96.11.0", 1: "count", 2: 2**63 - 1, 6: TIME_S}],
        "no-load": [_INTERVAL | {2: 0}],
    }
    octets = {pack: cbor2.dumps(records) for pack, records in packs.items()}
    octets["longer-heads"] = b"\x98\x01\xb9\x00\x05" + cbor2.dumps(_INTERVAL)[1:]
    octets["indefinite-lengths"] = b"\x9f\xbf" + cbor2.dumps(_INTERVAL)[1:] + b"\xff\xff"
    return octets


def _refused() -> dict[str, dict[str, bytes]]:
    """By verdict."""
    invalid: dict[str, Any] = {
        "no-array": _INTERVAL,
        "no-records": [],
        "no-map": [1],
        "two-values-of-a-register-at-one-time": [_INTERVAL, _WH],
        "half-a-second": [_INTERVAL | {-3: TIME_S + 0.5}],
        "relative-time": [_INTERVAL | {-3: 2**28 - 1}],
        "no-time": [{-1: 26} | _WH],
        "text-value": [{-1: 26, -3: TIME_S, 0: LOAD_PROFILE, 1: "Wh", 3: "112"}],
        "boolean-value": [{-1: 26, -3: TIME_S, 0: LOAD_PROFILE, 1: "Wh", 4: True}],
        "not-a-number": [_INTERVAL | {2: float("nan")}],
        "names-another-meter-and-has-no-number": [{-2: _ANOTHER} | _INTERVAL | {2: float("nan")}],
        "value-of-more-than-63-bits": [_INTERVAL | {2: 2**63}],
        "secondary-unit-of-bver-10": [_INTERVAL | {-1: 10}],
        "bver-5": [_INTERVAL | {-1: 5}],
        "label-that-must-be-understood": [_INTERVAL | {"x_": 1}],
        "no-whole-minute": [_INTERVAL | {-3: TIME_S + 1}],
    }
    packs = {name: cbor2.dumps(one) for name, one in invalid.items()}
    packs |= {
        "repeated-label": b"\x81\xa6" + cbor2.dumps(_INTERVAL)[1:] + b"\x02\x01",
        "no-cbor": b"\xff",
        "octets-after-the-pack": cbor2.dumps([_INTERVAL]) + b"\x00",
    }
    one = {
        "unknown_register": {"unknown-register": [_INTERVAL | {0: "1-0:99.99.0"}]},
        "registry_mismatch": {
            "another-unit": [_INTERVAL | {0: "1-0:1.7.0"}],
            "float-that-is-not-exact": [_VOLTAGE | {2: 229.8}],
            "not-a-multiple-of-the-step": [_VOLTAGE | {2: cbor2.CBORTag(4, [-2, 22985])}],
            "off-the-grid": [_INTERVAL | {-3: TIME_S + 60}],
        },
        "identity_mismatch": {
            "names-another-meter": [{-2: _ANOTHER} | _INTERVAL],
            "names-another-meter-and-has-two-values-of-a-register": [{-2: _ANOTHER} | _INTERVAL, _WH],
        },
        "too_old": {"before-the-retention-period": [_INTERVAL | {-3: 2**28 + 1800 - 2**28 % 1800}]},
        "clock_skew": {
            "ahead": [_REGISTER | {-3: TIME_S + _HOUR_S + 301}],
            "interval-that-is-not-over": [_INTERVAL | {-3: TIME_S + _HOUR_S}],
        },
        "implausible": {"more-than-the-register-may-say": [_INTERVAL | {2: 2**62}]},
    }
    return {"payload_invalid": packs} | {
        verdict: {name: cbor2.dumps(records) for name, records in packs.items()} for verdict, packs in one.items()
    }
