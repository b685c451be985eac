"""The verdicts of meters that mask, under every envelope, without a database."""

from datetime import timedelta

import cbor2
import pytest

from concentrators.ingest.facts import Earlier
from meters.values import MASKED, Value
from tests.builders import KNOWN_TIME_S, pack
from tests.concentrators.ingest.deciding import (
    CONCENTRATOR_ID,
    ENERGY,
    INTERVAL,
    INTERVAL_ID,
    METER_ID,
    RECEIVED,
    TAMPER,
    UPLINK_ID,
    WINDOW,
    Scene,
    decided,
    usual,
    verdicts,
)

VALUE = 0xA667814336E0C26B
OTHER = VALUE + 1
NUMBERS = {"ccm": 6, "session": 9, "sealed": 10, "mac": 11}


def masked(value: int = VALUE, time_s: int = KNOWN_TIME_S, name: str = INTERVAL, octets: int = 8) -> bytes:
    return cbor2.dumps([{-1: 26, -3: time_s, 0: name, 1: "Wh", 8: value.to_bytes(8, "big")[:octets]}])


@pytest.fixture(params=NUMBERS)
def good(request: pytest.FixtureRequest) -> Scene:
    return Scene(scheme=request.param, masks=True, payload=masked())


def standing(value: int, age: timedelta = timedelta()) -> Earlier:
    return Earlier({(METER_ID, INTERVAL_ID, KNOWN_TIME_S, MASKED): (value, 50)}, {50: RECEIVED - age})


def test_a_masked_value_is_stored_apart_and_in_no_sum(good: Scene) -> None:
    decisions, _ = decided(good)
    value = Value(KNOWN_TIME_S, INTERVAL_ID, VALUE, 30, is_event=False, is_masked=True)
    assert decisions.masked == [(METER_ID, value, UPLINK_ID, NUMBERS[good.scheme])]
    assert (list(decisions.readings), dict(decisions.sums)) == ([], {})
    assert decisions.arrived == {(CONCENTRATOR_ID, INTERVAL_ID, 30, KNOWN_TIME_S): 1}


def test_the_counter_and_the_value_decide_as_of_any_frame(good: Scene) -> None:
    assert verdicts(good) == {"accepted": 1}
    assert verdicts(good.but(earlier=standing(VALUE))) == {"accepted": 1}
    assert verdicts(good.but(earlier=standing(OTHER))) == {"reading_conflict": 1}
    seen = good.but(counter=3, highest=4)
    assert verdicts(seen.but(earlier=standing(VALUE))) == {"duplicate": 1}
    late = WINDOW + timedelta(seconds=1)
    assert verdicts(seen.but(earlier=standing(VALUE, late))) == {"replayed": 1}
    assert verdicts(seen.but(earlier=standing(OTHER))) == {"counter_reused": 1}


@pytest.mark.parametrize("payload", [usual(), pack({-1: 26, -3: KNOWN_TIME_S, 0: ENERGY, 1: "Wh", 2: 5})])
def test_a_plain_value_is_refused_after_the_tag_and_takes_the_counter(good: Scene, payload: bytes) -> None:
    decisions, key = decided(good.but(payload=payload))
    assert dict(decisions.uplinks[0].verdicts.failures) == {"algorithm_mismatch": 1}
    assert (list(decisions.readings), list(decisions.masked)) == ([], [])
    assert key.look(good.counter).name != "TAKEN"
    assert verdicts(good.but(payload=payload, damage=b"\x00")) == {"tag_invalid": 1}


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        (b"\x00", "payload_invalid"),
        (masked(octets=7), "payload_invalid"),
        (masked(name=ENERGY), "payload_invalid"),
        (masked(name="1-0:9.9.9"), "unknown_register"),
        (masked(time_s=KNOWN_TIME_S + 60), "registry_mismatch"),
        (masked(time_s=KNOWN_TIME_S + 86_400 * 9), "clock_skew"),
        (masked(time_s=KNOWN_TIME_S - 86_400 * 200), "too_old"),
        (masked(name="urn:dev:mac:0000000000000001:" + INTERVAL), "identity_mismatch"),
    ],
)
def test_what_else_is_refused(good: Scene, payload: bytes, verdict: str) -> None:
    assert verdicts(good.but(payload=payload)) == {verdict: 1}


def test_events_are_plain(good: Scene) -> None:
    decisions, _ = decided(good.but(payload=pack({0: TAMPER, 1: "count", 2: 40, 6: KNOWN_TIME_S})))
    assert (len(decisions.events), list(decisions.masked)) == (1, [])


def test_a_masked_value_of_a_meter_that_does_not_mask_is_no_payload(good: Scene) -> None:
    assert verdicts(good.but(masks=False)) == {"payload_invalid": 1}


@pytest.mark.parametrize("scheme", ["ccm", "sealed", "mac"])  # frames of sessions name their keys otherwise
def test_another_envelope_is_refused_before_the_tag(scheme: str) -> None:
    good, other = Scene(scheme=scheme, masks=True, payload=masked()), "mac" if scheme != "mac" else "ccm"
    frame = Scene(scheme=other, masks=True, payload=masked()).octets()
    assert verdicts(good, [frame]) == {"algorithm_mismatch": 1}
    assert verdicts(good, [frame[:-1] + b"\x00"]) == {"algorithm_mismatch": 1}
