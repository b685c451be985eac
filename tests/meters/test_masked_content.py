"""Content ``masked``: packs of masked values, or of events, and nothing else of what a meter measures."""

import cbor2
import pytest

from keyvault.schemes.table import SCHEMES
from meters.contents.table import CONTENTS
from meters.values import MASKED, PayloadError, PayloadTimes, Value, spot
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE, pack
from tests.meters.test_reports import CATALOGUE, ENERGY, INTERVAL, TAMPER

PERIOD = PayloadTimes(KNOWN_TIME_S - 86_400, KNOWN_TIME_S + 86_400)
KNOWN = bytes.fromhex("81a520181a221a6955b900006a312d303a312e32392e30016257680848a667814336e0c26b")
VALUE = 0xA667814336E0C26B


def read(payload: bytes, minutes: int = 30) -> list[Value]:
    return CONTENTS["masked"].reader(CATALOGUE).read(payload, KNOWN_TITLE, minutes, PERIOD)


def refused(payload: bytes, minutes: int = 30) -> str:
    with pytest.raises(PayloadError) as caught:
        read(payload, minutes)
    return caught.value.reason.value


def one(data: object = VALUE.to_bytes(8, "big"), **other: object) -> dict[int, object]:
    labels = {"name": 0, "unit": 1, "time": -3}
    record = {-1: 26, -3: KNOWN_TIME_S, 0: INTERVAL, 1: "Wh", 8: data}
    return record | {labels[name]: value for name, value in other.items()}


def test_the_known_answer() -> None:
    assert read(KNOWN) == [Value(KNOWN_TIME_S, 2, VALUE, 30, is_event=False, is_masked=True)]
    assert cbor2.dumps([{-1: 26, -3: KNOWN_TIME_S, 0: INTERVAL, 1: "Wh", 8: VALUE.to_bytes(8, "big")}]) == KNOWN


def test_it_goes_with_four_envelopes() -> None:
    found = {one.number: (one.name, one.envelope) for one in SCHEMES if one.content == "masked"}
    assert found == {
        6: ("ccm + masked", "ccm"),
        9: ("session + masked", "session"),
        10: ("sealed + masked", "sealed"),
        11: ("mac + masked", "mac"),
    }


@pytest.mark.parametrize("value", [0, 2**63, 2**64 - 1])
def test_every_masked_value_is_taken(value: int) -> None:
    (found,) = read(pack(one(value.to_bytes(8, "big"))))
    assert (found.value, found.is_masked) == (value, True)
    assert spot(7, found) == (7, 2, KNOWN_TIME_S, MASKED) != spot(7, found._replace(is_masked=False))


def test_several_starts_in_one_pack() -> None:
    second = {0: INTERVAL, 1: "Wh", 8: bytes(8), 6: 1800}
    assert [found.captured_s for found in read(pack(one(), second))] == [KNOWN_TIME_S, KNOWN_TIME_S + 1800]


def test_events_are_plain_packs_of_their_own() -> None:
    event = {0: TAMPER, 1: "count", 2: 40, 6: KNOWN_TIME_S}
    assert read(pack(event)) == [Value(KNOWN_TIME_S, 3, 40, 0, is_event=True)]
    assert refused(pack(one(), event | {6: 0})) == "payload_invalid"


@pytest.mark.parametrize("register", [ENERGY, INTERVAL])
def test_a_plain_value_is_of_another_scheme(register: str) -> None:
    plain = {-1: 26, -3: KNOWN_TIME_S, 0: register, 1: "Wh", 2: 112}
    assert refused(pack(plain)) == "algorithm_mismatch"
    assert refused(pack(one(), {0: register, 1: "Wh", 2: 112})) == "algorithm_mismatch"
    assert refused(pack(one(bytes(7)), {0: register, 1: "Wh", 2: 112})) == "algorithm_mismatch"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (one(bytes(7)), "payload_invalid"),
        (one(bytes(9)), "payload_invalid"),
        (one("masked"), "payload_invalid"),
        (one() | {2: 5}, "payload_invalid"),
        (one() | {-5: 5}, "payload_invalid"),
        (one(name=ENERGY), "payload_invalid"),
        (one(name=TAMPER, unit="count"), "payload_invalid"),
        (one(time=KNOWN_TIME_S + 1), "payload_invalid"),
        (one(name="urn:dev:mac:0000000000000001:" + INTERVAL), "identity_mismatch"),
        (one(time=KNOWN_TIME_S - 10 * 86_400), "too_old"),
        (one(name="1-0:9.9.9"), "unknown_register"),
        (one(unit="kWh"), "registry_mismatch"),
        (one(time=KNOWN_TIME_S + 60), "registry_mismatch"),
        (one(time=KNOWN_TIME_S + 86_400), "clock_skew"),
    ],
)
def test_what_is_refused(record: dict[int, object], reason: str) -> None:
    assert refused(pack(record)) == reason


def test_two_values_of_one_place_and_every_cut_are_refused() -> None:
    assert refused(pack(one(), {0: INTERVAL, 1: "Wh", 8: bytes(8)})) == "payload_invalid"
    for length in range(len(KNOWN)):
        assert refused(KNOWN[:length]) == "payload_invalid"


def test_meters_of_other_schemes_mask_nothing() -> None:
    for content in ("plain", "events"):
        with pytest.raises(PayloadError) as caught:
            CONTENTS[content].reader(CATALOGUE).read(KNOWN, KNOWN_TITLE, 30, PERIOD)
        assert caught.value.reason == "payload_invalid"
