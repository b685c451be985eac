"""Links and blocks: real captures, what is refused, and that no octets do harm."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.crc import crc_arc, crc_x25
from keyvault.schemes.dlms.framing import (
    LLC,
    blocks,
    hdlc_frames,
    mbus_frames,
    unwrap,
    wrapper_end,
    wrapper_frames,
)
from tests.dlms_frames import REAL, SYNTHETIC, octets

APDU = bytes.fromhex(SYNTHETIC["tr_hdlc"]["apdu"])
REFUSED = ("hdlc_bad_fcs", "gbt_missing", "gbt_twice", "mbus_bad_checksum", "mbus_missing_last")
CARRIED = [name for name in SYNTHETIC if name.startswith("tr_")]


def test_checksums_are_those_of_the_catalogue_of_crcs() -> None:
    assert crc_x25(b"123456789") == 0x906E  # CRC RevEng: CRC-16/IBM-SDLC
    assert crc_arc(b"123456789") == 0xBB3D  # CRC-16/ARC


@pytest.mark.parametrize("name", REAL)
def test_a_real_capture_gives_the_apdu_that_its_source_has(name: str) -> None:
    entry = REAL[name]
    (frame,) = entry["frames"]
    if any(not one["fcs_ok"] for one in frame["layers"].get("hdlc", ())):
        with pytest.raises(MalformedError, match="frame check sequence"):
            unwrap(octets(entry))
    else:
        assert unwrap(octets(entry)).hex() == frame["apdu"]


@pytest.mark.parametrize("name", [name for name, one in REAL.items() if one["transport"] == "hdlc"])
def test_hdlc_frames_say_addresses_and_segments(name: str) -> None:
    layers = REAL[name]["frames"][0]["layers"]
    if not all(one["fcs_ok"] for one in layers["hdlc"]):
        return
    found = hdlc_frames(octets(REAL[name]))
    assert [(one.destination.hex(), one.source.hex(), one.is_segmented) for one in found] == [
        (one["dst"], one["src"], one["segmented"]) for one in layers["hdlc"]
    ]
    if "gbt" in layers:
        data = b"".join(one.information.removeprefix(LLC) for one in found)
        assert [one.number for one in blocks(data)] == list(range(1, layers["gbt"] + 1))


@pytest.mark.parametrize("name", [name for name, one in REAL.items() if one["transport"] == "mbus"])
def test_mbus_frames_say_their_segments_even_where_l_is_counted_modulo_256(name: str) -> None:
    found = mbus_frames(octets(REAL[name]))
    assert [(f"{one.control_information:02x}", one.source, one.destination, one.length, one.said) for one in found] == [
        (one["ci"], one["stsap"], one["dtsap"], one["L"], one["Lfield"])
        for one in REAL[name]["frames"][0]["layers"]["mbus"]
    ]


@pytest.mark.parametrize("name", CARRIED)
def test_every_link_carries_the_same_apdu(name: str) -> None:
    entry = SYNTHETIC[name]
    if entry["transport"] in REFUSED:
        with pytest.raises(MalformedError):
            unwrap(octets(entry))
    elif entry["transport"] == "wrapper_two":
        first, second = wrapper_frames(octets(entry))
        assert first.apdu.hex() == entry["apdu"]
        assert second.apdu[:1] == b"\xdb"
        with pytest.raises(MalformedError, match="follow"):  # an uplink's byte string is one notification
            parse_dlms(octets(entry))
    else:
        assert unwrap(octets(entry)).hex() == entry["apdu"]


def test_short_mbus_frames_between_are_passed_over() -> None:
    long = octets(SYNTHETIC["tr_mbus"])
    assert unwrap(bytes.fromhex("1040014116") + long + bytes.fromhex("1040014116")) == APDU
    with pytest.raises(MalformedError, match="short M-Bus frame"):
        unwrap(long + bytes.fromhex("1040014216"))


def test_segments_between_other_addresses_are_no_notification() -> None:
    first, second = octets(REAL["dp_hdlc_iskra550"]), octets(REAL["dp_hdlc_landis_gyr_e450"])
    with pytest.raises(MalformedError, match="other addresses"):
        unwrap(first + second)


def test_a_wrapper_frame_is_cut_by_its_length() -> None:
    frame = octets(SYNTHETIC["tr_wrapper"])
    assert [wrapper_end(frame[:length]) for length in range(8)] == [None] * 8
    assert wrapper_end(frame) == len(frame)
    with pytest.raises(MalformedError, match="0001"):
        wrapper_end(b"\x00\x02")


@pytest.mark.parametrize(
    "name", [name for name in CARRIED if SYNTHETIC[name]["transport"] not in (*REFUSED, "wrapper_two")]
)
def test_truncation_and_a_changed_octet_never_give_another_apdu(name: str) -> None:
    whole = octets(SYNTHETIC[name])
    for end in range(len(whole)):
        assert _unwrapped(whole[:end]) != APDU
    if SYNTHETIC[name]["transport"].startswith(("hdlc", "mbus")):
        for at in range(1, len(whole)):  # the first octet says which link it is
            changed = whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]
            assert _unwrapped(changed) in (None, APDU), at


def _unwrapped(some: bytes) -> bytes | None:
    try:
        return unwrap(some)
    except MalformedError:
        return None


BEGINNINGS = st.sampled_from(
    [b"\x7e\xa0\x10", b"\x7e\xa8", b"\x68\x05\x05\x68", b"\x10", b"\x00\x01", b"\xe6\xe7\x00\xe0", b"\xe0\xc1\x00\x01"]
)
ANY_OCTETS = st.one_of(
    st.binary(max_size=600),
    st.builds(bytes.__add__, BEGINNINGS, st.binary(max_size=300)),
    st.builds(
        lambda whole, at, octet: whole[: at % len(whole)] + octet + whole[at % len(whole) + 1 :],
        st.sampled_from([octets(SYNTHETIC[name]) for name in CARRIED] + [octets(one) for one in REAL.values()]),
        st.integers(0, 4096),
        st.binary(max_size=3),
    ),
)


def _give_no_more_than_they_have(some: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert len(unwrap(some)) <= len(some)
    with contextlib.suppress(MalformedError):
        assert len(parse_dlms(some).ciphertext) <= len(some)


@given(ANY_OCTETS)
@settings(max_examples=60, deadline=None)
def test_no_octets_do_harm(some: bytes) -> None:
    _give_no_more_than_they_have(some)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@given(ANY_OCTETS)
@settings(max_examples=20_000, deadline=None)
def test_no_octets_do_harm_at_length(some: bytes) -> None:
    _give_no_more_than_they_have(some)
