"""Contents ``report`` and ``events``: what a concentrator says of its meters, and what a meter says beside it."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame
from meters.contents.events import EVENTS
from meters.contents.lines import Catalogue, Content, RegisterRow
from meters.contents.report import REPORT, ReportedSum, ReportReader, is_sums, named_meter, read_sums
from meters.values import PayloadError, PayloadTimes, Value
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE, pack

ENERGY, INTERVAL, TAMPER = "1-0:1.8.0", "1-0:1.29.0", "0-0:96.11.1"
CATALOGUE = Catalogue(
    {
        ENERGY: RegisterRow(1, "Wh", 0, False, False, 0, 10**12),
        INTERVAL: RegisterRow(2, "Wh", 0, True, False, 0, 999_999),
        TAMPER: RegisterRow(3, "count", 0, False, True, 0, 2**24 - 1),
    }
)
PERIOD = PayloadTimes(KNOWN_TIME_S - 86_400, KNOWN_TIME_S + 86_400)
BASE = f"urn:dev:mac:{KNOWN_TITLE.hex()}:"


def report() -> bytes:
    return pack({-2: BASE, -1: 26, -3: KNOWN_TIME_S, 0: INTERVAL, 1: "Wh", 2: 112})


def usual_report() -> bytes:
    """A report in the order of labels that meters' own packs have."""
    return cbor2.dumps([{-1: 26, -2: BASE, -3: KNOWN_TIME_S, 0: ENERGY, 1: "Wh", 2: 112}])


def said(reader: ReportReader, payload: bytes) -> list[Value] | str:
    try:
        return reader.read(payload, KNOWN_TITLE, 30, PERIOD)
    except PayloadError as error:
        return f"{error.reason}: {error}"


def two(second_base: str) -> bytes:
    """A report whose second record has another base name."""
    first = {-2: BASE, -1: 26, -3: KNOWN_TIME_S, 0: INTERVAL, 1: "Wh", 2: 1}
    return pack(first, {-2: second_base, 0: ENERGY, 1: "Wh", 2: 1})


def read(payload: bytes, content: Content = REPORT) -> list[Value]:
    return content.reader(CATALOGUE).read(payload, KNOWN_TITLE, 30, PERIOD)


def refused(payload: bytes, content: Content = REPORT) -> str:
    with pytest.raises(PayloadError) as caught:
        read(payload, content)
    return caught.value.reason.value


class TestReport:
    def test_it_says_the_meters_readings(self) -> None:
        assert read(report()) == [Value(KNOWN_TIME_S, 2, 112, 30, False)]
        assert named_meter(report()) == KNOWN_TITLE

    def test_the_base_name_is_mandatory(self) -> None:
        bare = pack({-1: 26, -3: KNOWN_TIME_S, 0: INTERVAL, 1: "Wh", 2: 112})
        assert (named_meter(bare), refused(bare)) == (None, "payload_invalid")
        assert refused(two("")) == "payload_invalid"

    def test_another_meter_in_any_record_is_refused(self) -> None:
        assert refused(two(BASE.replace("f1:", "f2:"))) == "identity_mismatch"

    def test_an_event_is_the_meters_own_to_say(self) -> None:
        assert refused(pack({-2: BASE, -3: KNOWN_TIME_S, 0: TAMPER, 1: "count", 2: 1})) == "algorithm_mismatch"

    def test_what_is_no_pack_is_invalid(self) -> None:
        assert refused(BASE.encode()) == "payload_invalid"

    @given(at=st.integers(0, 75), bit=st.integers(0, 7))
    def test_a_reader_that_knows_the_shape_says_the_same(self, at: int, bit: int) -> None:
        usual = usual_report()
        knows = ReportReader(CATALOGUE)
        assert knows.read(usual, KNOWN_TITLE, 30, PERIOD) == [Value(KNOWN_TIME_S, 1, 112, 0, False)]
        assert [shape.matches(usual[:1] + b"\xa5" + usual[2:5] + usual[37:]) for shape in knows.own.shapes] == [True]
        flipped = bytearray(usual)
        flipped[at % len(usual)] ^= 1 << bit
        assert said(knows, bytes(flipped)) == said(ReportReader(CATALOGUE), bytes(flipped))

    def test_a_shape_of_another_meter_is_refused(self) -> None:
        knows = ReportReader(CATALOGUE)
        knows.read(usual_report(), KNOWN_TITLE, 30, PERIOD)
        with pytest.raises(PayloadError) as caught:
            knows.read(usual_report(), bytes(8), 30, PERIOD)
        assert caught.value.reason.value == "identity_mismatch"


class TestEvents:
    def test_events_alone_are_taken(self) -> None:
        event = pack({-3: KNOWN_TIME_S, 0: TAMPER, 1: "count", 2: 40})
        assert read(event, EVENTS) == [Value(KNOWN_TIME_S, 3, 40, 0, True)]
        reading = pack({-1: 26, -3: KNOWN_TIME_S + 7, 0: INTERVAL, 1: "Wh", 2: 112})  # off its grid, too
        assert refused(reading, EVENTS) == "algorithm_mismatch"
        assert refused(pack({-3: KNOWN_TIME_S, 0: "1-0:9.9.9", 1: "count", 2: 1}), EVENTS) == "unknown_register"
        assert refused(b"\x80", EVENTS) == "payload_invalid"


def sums(*rows: object) -> bytes:
    return cbor2.dumps(["sums", *rows], canonical=True)


def sums_refused(payload: bytes) -> str:
    with pytest.raises(PayloadError) as caught:
        read_sums(payload, CATALOGUE, PERIOD)
    return caught.value.reason.value


class TestSums:
    def test_the_known_answer(self) -> None:
        payload = sums([INTERVAL, 30, 1767225600, 11200, 100])
        assert payload.hex() == "826473756d73856a312d303a312e32392e30181e1a6955b900192bc01864"
        assert is_sums(payload)
        assert read_sums(payload, CATALOGUE, PERIOD) == [ReportedSum(2, 30, 1767225600, 11200, 100)]
        assert not is_sums(report())

    def test_the_highest_sum(self) -> None:
        (row,) = read_sums(sums([INTERVAL, 30, KNOWN_TIME_S, 2**63 - 1, 0]), CATALOGUE, PERIOD)
        assert row.value == 2**63 - 1

    @pytest.mark.parametrize(
        ("payload", "verdict"),
        [
            (sums(), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, 1.0, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, True, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, -1, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, 2**63, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, 1, -1]), "payload_invalid"),
            (sums([INTERVAL, 0, KNOWN_TIME_S, 1, 1]), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S + 60, 1, 1]), "payload_invalid"),
            (sums(*[[INTERVAL, 30, KNOWN_TIME_S, 1, 1]] * 2), "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S, 1, 1]) + b"\0", "payload_invalid"),
            (b"\x9f" + sums([INTERVAL, 30, KNOWN_TIME_S, 1, 1])[1:] + b"\xff", "payload_invalid"),
            (sums([INTERVAL, 30, KNOWN_TIME_S - 2 * 86_400, 1, 1]), "too_old"),
            (sums(["1-0:9.9.9", 30, KNOWN_TIME_S, 1, 1]), "unknown_register"),
            (sums([ENERGY, 30, KNOWN_TIME_S, 1, 1]), "registry_mismatch"),
            (sums([INTERVAL, 30, KNOWN_TIME_S + 86_400, 1, 1]), "clock_skew"),
        ],
    )
    def test_what_is_refused(self, payload: bytes, verdict: str) -> None:
        assert sums_refused(payload) == verdict

    @given(st.binary(max_size=60))
    def test_noise_is_invalid_and_nothing_else(self, noise: bytes) -> None:
        for payload in (noise, b"\x82\x64sums" + noise):
            with pytest.raises(PayloadError):
                read_sums(payload, CATALOGUE, PERIOD)


def test_the_known_answers_of_a_concentrators_frames() -> None:
    title = bytes.fromhex("0024befffe00c001")
    cipher = DirectionCipher(uplink_key(bytes(range(0x90, 0xB0)), title, 1, 10), 10)
    said = sums([INTERVAL, 30, 1767225600, 11200, 100])
    assert cipher.seal(make_kid(title, 1), 0, said).hex() == (
        "d08352a3010a044a0024befffe00c0010001064100a0582681bbb173f82ad9c246daf723e7b1b16fda74cab1241cfc7c26eb426a9bee6d"
        "e09c647f4bc48a"
    )
    frame = parse_frame(
        bytes.fromhex(
            "d08352a3010a044a0024befffe00c0010001064101a0585ceef68817197494e4cbaf5683c9212d43b92b128cae369652b2e45213da"
            "be52c1f567a0a5e70cea5a325058ec62dae9a1e2859e3ee19deb60c54ad4629cb53d4311208a6827401a42fbd558cc6d36a8804561"
            "76093cdaf44023bf6e7f"
        )
    )
    values = read(cipher.open_(frame))
    assert {(value.captured_s, value.register_id) for value in values} == {(KNOWN_TIME_S, 1), (KNOWN_TIME_S, 2)}
