"""The reference of a concentrator with keys: known answers of docs/schemes.md, and what it drops, adds up and says."""

import cbor2
import pytest

from concentrators.simulator.hop_concentrator import HopConcentrator, HopFault, Reporter, SumPlace, name_meter
from concentrators.simulator.keys import Key
from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.packs import event_payload, interval_payload
from keyvault.cose.kdf import downlink_key, hop_key, hop_mac_key, uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import make_kid, parse_frame
from keyvault.schemes.hop_tag import HopTagKey
from meters.readings.obis import COMMAND_DONE, LOAD_PROFILE
from tests.builders import KNOWN_KEY, KNOWN_TIME_S, KNOWN_TITLE

A, B = bytes.fromhex("0024befffe00c001"), bytes.fromhex("0024befffe00c002")
OWN_KEY = bytes(range(0x90, 0xB0))
PAYLOAD = interval_payload(KNOWN_TIME_S, 1_234_567, 112)
NOW_S = KNOWN_TIME_S + 1800


def concentrator(title: bytes = A, state: bytes | None = None) -> HopConcentrator:
    return HopConcentrator(title, Key(OWN_KEY, 10, 1), state)


def keys_for(title: bytes, *meters: SimulatedMeter, counter: int = 0x6955B90000) -> bytes:
    """Hop keys as the head-end seals them for a concentrator."""
    entries = []
    for one in meters:
        whose = one.key.octets, one.system_title, one.epoch
        aes = hop_key(*whose, one.key.alg, title) if one.key.scheme == "hop" else None
        traffic = [None, None] if aes is None else [aes.key, aes.base_iv]
        entries.append([make_kid(one.system_title, one.epoch), hop_mac_key(*whose, title), *traffic])
    cipher = DirectionCipher(downlink_key(OWN_KEY, title, 1, 30), 30)
    return cipher.seal(make_kid(title, 1), counter, cbor2.dumps(entries))


def meter(scheme: str = "hop", number: int = 0, at: bytes = A) -> SimulatedMeter:
    title = KNOWN_TITLE[:7] + bytes((KNOWN_TITLE[7] + number,))
    one = SimulatedMeter(
        title, bytes((number,)) * 32, Memory(number), bytes(32), scheme=scheme, alg=4 if scheme == "mac" else 10
    )
    if at:
        one.send_over(at)
    return one


def over(one: HopConcentrator, octets: bytes) -> bytes | None:
    return one.receive(octets, 30, NOW_S)


def opened(octets: bytes | None, title: bytes = A) -> tuple[int, object]:
    """Counter and contents of what a concentrator sealed for the head-end."""
    assert octets is not None
    frame = parse_frame(octets)
    assert frame.kid == make_kid(title, 1)
    return frame.counter, cbor2.loads(DirectionCipher(uplink_key(OWN_KEY, title, 1, 10), 10).open_(frame))


class TestKnownAnswers:
    def test_hop_keys_are_taken(self) -> None:
        sealed = bytes.fromhex(
            "d08357a301181e044a0024befffe00c001000106456955b90000a0585e93401dbc0093f9eae6d58f7e4e24e4074cca4963eb7a3039eac3"
            "a83b30749ef61111a5c1c399392fee66a8a43cd20a0f997342ccdb7c2dc3d5f38c01edb0b6aa9f03dd32e3599b38785fefedac0a329c7e"
            "f8aae644ca2c791daf674faf07"
        )
        one = concentrator()
        one.take_keys(sealed)
        device = SimulatedMeter(KNOWN_TITLE, KNOWN_KEY, Memory(0), scheme="hop")
        device.send_over(A)
        assert over(one, device.seal(PAYLOAD)) is not None

    def test_sums_and_report(self) -> None:
        one = concentrator()
        assert one.seal_sums([(SumPlace(LOAD_PROFILE, 30, 1_767_225_600), 11_200, 100)])[0].hex() == (
            "d08352a3010a044a0024befffe00c0010001064100a0582681bbb173f82ad9c246daf723e7b1b16fda74cab1241cfc7c26eb426a9bee6d"
            "e09c647f4bc48a"
        )
        assert one.seal(name_meter(PAYLOAD, KNOWN_TITLE)).hex() == (
            "d08352a3010a044a0024befffe00c0010001064101a0585ceef68817197494e4cbaf5683c9212d43b92b128cae369652b2e45213dabe52"
            "c1f567a0a5e70cea5a325058ec62dae9a1e2859e3ee19deb60c54ad4629cb53d4311208a6827401a42fbd558cc6d36a880456176093cda"
            "f44023bf6e7f"
        )


class TestLocalLink:
    def test_what_it_drops_and_says(self) -> None:
        hop, ccm, one = meter(number=1), meter("ccm", 2), concentrator()
        one.take_keys(keys_for(A, hop, ccm))
        heard = hop.seal(PAYLOAD)
        impostor = ccm.impostor(b"noise")
        elsewhere = HopTagKey.of_device(ccm.key.octets, ccm.system_title, 1, B)
        assert over(one, heard) is not None
        for octets in (
            heard,
            ccm.seal(PAYLOAD),
            impostor.wear_tag(ccm.seal(PAYLOAD)),
            elsewhere.seal_tag(ccm.seal(PAYLOAD)),
            hop.impostor(b"noise").seal(PAYLOAD, 99),
            b"noise",
            ccm.wear_tag(ccm.seal(PAYLOAD))[:-1],
        ):
            assert over(one, octets) is None
        said = {(row["system_title"], row["reason"]): (row["frames"], len(row["samples"])) for row in one.failures()}
        assert said == {
            (hop.system_title.hex(), HopFault.REPLAYED): (1, 1),
            (hop.system_title.hex(), HopFault.TAG_INVALID): (1, 1),
            (ccm.system_title.hex(), HopFault.UNTAGGED): (1, 1),
            (ccm.system_title.hex(), HopFault.TAG_INVALID): (2, 2),
        }

    def test_a_tag_is_stripped_and_the_frame_as_it_was(self) -> None:
        ccm, one = meter("ccm"), concentrator()
        one.take_keys(keys_for(A, ccm))
        inside = ccm.seal(PAYLOAD)
        assert over(one, ccm.wear_tag(inside)) == inside

    def test_events_of_hop_meters_are_the_head_ends(self) -> None:
        hop, one = meter(), concentrator()
        one.take_keys(keys_for(A, hop))
        inside = hop.seal_event(event_payload(NOW_S, COMMAND_DONE, 7))
        assert over(one, hop.wear_tag(inside)) == inside

    def test_unknown_titles_pass_so_many_an_hour(self) -> None:
        stranger, one = meter("ccm", 3), HopConcentrator(A, Key(OWN_KEY, 10, 1), unknown_per_hour=2)
        one.take_keys(keys_for(A, meter()))
        inside = stranger.seal(PAYLOAD)
        assert [over(one, octets) for octets in (inside, stranger.wear_tag(inside), inside)] == [inside, inside, None]
        assert one.receive(inside, 30, NOW_S + 3600) == inside

    def test_keys_for_another_are_refused_and_the_old_ones_stay(self) -> None:
        hop, one = meter(), concentrator()
        one.take_keys(keys_for(A, hop))
        with pytest.raises(TagInvalidError):
            one.take_keys(keys_for(B, hop))
        assert over(one, hop.seal(PAYLOAD)) is not None


class TestSums:
    def test_it_adds_up_what_it_can_read_each_interval_once(self) -> None:
        fleet = [meter("hop", 1), meter("hop", 2), meter("mac", 3), meter("ccm", 4)]
        one = concentrator()
        one.take_keys(keys_for(A, *fleet))
        for each in fleet:
            for _ in range(2):  # sent once more under another counter, as gap recovery asks for
                sealed = each.seal(interval_payload(KNOWN_TIME_S, 5, 100 + each.memory.number))
                assert over(one, sealed if each.key.scheme == "hop" else each.wear_tag(sealed)) is not None
        place = SumPlace(LOAD_PROFILE, 30, KNOWN_TIME_S)
        assert one.sums_until(NOW_S - 1) == []
        assert one.sums_until(NOW_S) == [(place, 306, 3)]
        over(one, fleet[0].seal(PAYLOAD))
        assert one.sums_until(NOW_S) == []

    def test_a_late_reading_makes_it_say_the_sum_again_but_not_for_ever(self) -> None:
        first, late, later, one = meter("hop", 1), meter("hop", 2), meter("hop", 3), concentrator()
        one.take_keys(keys_for(A, first, late, later))
        place = SumPlace(LOAD_PROFILE, 30, KNOWN_TIME_S)
        over(one, first.seal(PAYLOAD))
        assert one.sums_until(NOW_S) == [(place, 112, 1)]
        over(one, late.seal(PAYLOAD))
        assert one.sums_until(NOW_S + 1800) == [(place, 224, 2)]
        assert one.sums_until(NOW_S + 3 * 86_400) == []
        over(one, later.seal(PAYLOAD))
        assert one.sums_until(NOW_S + 3 * 86_400) == []

    def test_many_sums_are_several_frames(self) -> None:
        sums = [(SumPlace(LOAD_PROFILE, 30, 1800 * n), n, 1) for n in range(40)]
        rows = [row for octets in concentrator().seal_sums(sums) for row in opened(octets)[1][1:]]  # type: ignore[index]
        assert rows == [[LOAD_PROFILE, 30, 1800 * n, n, 1] for n in range(40)]


class TestState:
    def test_it_goes_on_where_its_power_was_lost(self) -> None:
        hop, ccm, before = meter(number=1), meter("ccm", 2), concentrator()
        before.take_keys(keys_for(A, hop, ccm))
        heard = hop.seal(PAYLOAD)
        assert opened(over(before, heard))[0] == 0
        over(before, ccm.seal(PAYLOAD))
        after = concentrator(state=before.dump())
        assert over(after, heard) is None  # its replay window is there
        assert opened(over(after, hop.seal(interval_payload(KNOWN_TIME_S + 1800, 5, 6))))[0] == 1
        assert after.sums_until(NOW_S) == [(SumPlace(LOAD_PROFILE, 30, KNOWN_TIME_S), 112, 1)]
        assert {row["reason"]: row["frames"] for row in after.failures()} == {"replayed": 1, "untagged": 1}


class TestMovedMeter:
    def test_to_another_and_back(self) -> None:
        """Keys follow V; counters of a device key are never set back, and windows outlive the keys."""
        hop, a, b = meter(), concentrator(A), concentrator(B)
        a.take_keys(keys_for(A, hop, counter=1))
        first = hop.seal(interval_payload(KNOWN_TIME_S, 1, 10))
        assert over(a, first) is not None
        a.take_keys(keys_for(A, counter=2))  # it is assigned to B now
        b.take_keys(keys_for(B, hop))
        hop.send_over(B)
        second = hop.seal(interval_payload(KNOWN_TIME_S + 1800, 11, 10))
        assert opened(over(b, second), B)[1][0][-2] == f"urn:dev:mac:{hop.system_title.hex()}:"  # type: ignore[index]
        a.take_keys(keys_for(A, hop, counter=3))
        hop.send_over(A)
        assert over(a, first) is None
        assert over(a, second) is None  # sealed for B: its tag does not fit here
        assert over(a, hop.seal(interval_payload(KNOWN_TIME_S + 3600, 21, 10))) is not None
        assert {row["reason"] for row in a.failures()} == {"replayed", "tag_invalid"}

    def test_until_it_is_told_it_waits(self) -> None:
        with pytest.raises(LookupError, match="was told no concentrator"):
            meter(at=b"").seal(PAYLOAD)

    def test_it_remembers_where_it_was_told(self) -> None:
        hop = meter()
        hop.send_over(B)
        hop.send_over(A)
        again = SimulatedMeter(hop.system_title, hop.key.octets, hop.memory, bytes(32), scheme="hop")
        assert again.concentrator == A


def test_a_report_is_of_the_meter_that_it_names() -> None:
    one = concentrator()
    counter, said = opened(Reporter(one, KNOWN_TITLE).seal(PAYLOAD))
    assert counter == 0
    assert said[0][-2] == "urn:dev:mac:0024befffe804ff1:"  # type: ignore[index]
    assert Reporter(one, KNOWN_TITLE).seal(b"\x9f\x01") is not None  # what is no pack goes as it is
