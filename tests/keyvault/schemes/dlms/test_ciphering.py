"""Headers and AES-GCM of ciphered APDUs, against every vector that can be opened; and A-XDR within bounds."""

import contextlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MalformedError, MismatchError
from keyvault.schemes.dlms import axdr
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.axdr import Item, decode
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.dlms.notification import is_whole, parse_data_notification, parse_event_notification
from keyvault.schemes.dlms.security import ALGORITHMS, algorithm_of, control_of
from tests.dlms_frames import REAL, STANDARD, SYNTHETIC, key_set, octets, plaintexts

# What no key set of a meter opens: another key, another AAD, or a form that is not taken.
NOT_TAKEN = {
    "db_sc70_broadcast": "broadcast",
    "dc_dedicated_sc30": "dedicated key",
    "db_sc00": "SC 00",
    "ca_glo_event_notification": "no title",
    "dd_short_aad": "another AAD",
    "dd_wrapped": "wrapped key",
    "db_scB0_compressed": "compressed",
} | {
    name: "agreed key or signed" for name in SYNTHETIC if name.startswith(("dd_agreed", "df_"))
}  # fmt: skip
OPENED = [
    name
    for name, one in SYNTHETIC.items()
    if str(one.get("verdict")).startswith("open") and "transport" not in one and name not in NOT_TAKEN
]
TITLE = bytes.fromhex("4d4d4d0000bc614e")
GUEK, GAK = bytes(range(16)), bytes(range(0xD0, 0xE0))


@pytest.mark.parametrize("name", OPENED)
def test_a_vector_opens_to_its_plaintext(name: str) -> None:
    entry = SYNTHETIC[name]
    frame = parse_dlms(octets(entry))
    assert (frame.kid.hex(), frame.counter) == (entry["system_title"], entry["ic"])
    control = int(entry["sc"], 16)
    assert frame.alg == algorithm_of(control, is_general=name.startswith("dd_"))
    assert control_of(frame.alg) == control
    keys = key_set(entry)
    assert keys is not None
    cipher = GcmCipher(keys, control)
    assert cipher.open_(frame).hex() == entry["plain"]
    said = cipher.seal(frame.kid, frame.counter, bytes.fromhex(entry["plain"]), frame.protected[1:])
    assert said.hex() == entry["content"]


@pytest.mark.parametrize("name", [name for name, one in REAL.items() if one.get("guek")])
def test_a_real_frame_opens_to_what_its_source_decoded(name: str) -> None:
    entry = REAL[name]
    (said,) = entry["frames"]
    frame = parse_dlms(octets(entry))
    assert (frame.kid.hex(), frame.counter) == (said["system_title"], said["ic"])
    keys = key_set(entry)
    assert keys is not None
    assert GcmCipher(keys, int(said["sc"], 16)).open_(frame).hex() == said["plain"]


@pytest.mark.parametrize("name", ["neg_tag_bit", "neg_ct_bit", "neg_ic_bit", "neg_title_bit", "dd_short_aad"])
def test_a_changed_bit_is_a_wrong_tag(name: str) -> None:
    keys = key_set(SYNTHETIC[name])
    assert keys is not None
    with pytest.raises(TagInvalidError):
        GcmCipher(keys, 0x30).open_(parse_dlms(octets(SYNTHETIC[name])))


@pytest.mark.parametrize("name", ["neg_truncated", "neg_trailing", "neg_title_len7", "neg_len_over", "neg_only_tag"])
def test_what_is_no_ciphered_apdu_is_malformed(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_dlms(octets(SYNTHETIC[name]))
    assert not isinstance(caught.value, MismatchError)


@pytest.mark.parametrize(
    "name",
    ["neg_plain_0f", "dc_dedicated_sc30", "ca_glo_event_notification", "dd_wrapped"]
    + [name for name in SYNTHETIC if name.startswith(("dd_agreed", "df_"))],
)
def test_what_no_key_set_protects_is_a_mismatch(name: str) -> None:
    with pytest.raises(MismatchError):
        parse_dlms(octets(SYNTHETIC[name]))


@pytest.mark.parametrize("name", ["db_sc00", "db_sc70_broadcast", "db_scB0_compressed"])
def test_no_key_can_be_registered_for_what_is_not_taken(name: str) -> None:
    assert parse_dlms(octets(SYNTHETIC[name])).alg not in ALGORITHMS


@pytest.mark.parametrize("name", ["neg_downgrade_sc20", "neg_downgrade_sc20_bitflip"])
def test_a_frame_without_its_tag_is_of_another_algorithm(name: str) -> None:
    assert parse_dlms(octets(SYNTHETIC[name])).alg == algorithm_of(0x20) != algorithm_of(0x30)


def test_the_tables_of_the_standard_come_out() -> None:
    apdu, counter = bytes.fromhex("c0010000080000010000ff0200"), 0x01234567
    assert GcmCipher(GUEK + GAK, 0x30).seal(TITLE, counter, apdu).hex() == (
        "3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b"
    )
    assert GcmCipher(GUEK + GAK, 0x10).seal(TITLE, counter, apdu).hex() == (
        "1001234567c0010000080000010000ff020006725d910f9221d263877516"
    )
    assert GcmCipher(GUEK + GAK, 0x20).seal(TITLE, counter, apdu).hex() == "2001234567411312ff935a47566827c467bc"


@pytest.mark.parametrize("name", ["gb_hls5_client", "gb_hls5_server"])
def test_an_answer_to_a_challenge_is_sealed_like_an_apdu_in_clear(name: str) -> None:
    one = {
        key: bytes.fromhex(value)
        for key, value in STANDARD[name].items()
        if key in ("title", "guek", "gak", "challenge")
    }
    said = GcmCipher(one["guek"] + one["gak"], 0x10).seal(one["title"], STANDARD[name]["ic"], one["challenge"])
    assert (said[:5] + said[-12:]).hex() == STANDARD[name]["f"]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1), st.binary())
@settings(max_examples=30, deadline=None)
def test_the_two_encryptions_are_gcm_with_a_short_tag(keys: bytes, title: bytes, counter: int, apdu: bytes) -> None:
    oracle = Cipher(algorithms.AES(keys[:16]), modes.GCM(title + counter.to_bytes(4, "big"))).encryptor()
    oracle.authenticate_additional_data(b"\x30" + keys[16:])
    right = oracle.update(apdu) + oracle.finalize() + oracle.tag[:12]
    assert GcmCipher(keys, 0x30).seal(title, counter, apdu)[5:] == right


def test_without_a_tag_a_wrong_key_gives_no_notification() -> None:
    entry = SYNTHETIC["db_sc20"]
    frame = parse_dlms(octets(entry))
    for wrong in range(300):
        with pytest.raises(TagInvalidError):
            GcmCipher(wrong.to_bytes(16, "big") + bytes(16), 0x20).open_(frame)


# A-XDR


def test_every_plaintext_is_one_whole_notification() -> None:
    for name, said, plaintext in plaintexts():
        whole = "axdr_error" not in said and not name.startswith("neg_")
        assert is_whole(plaintext) == (whole or name == "neg_title_bit"), name
        for end in range(len(plaintext)):
            assert not is_whole(plaintext[:end]) or plaintext[:1] == b"/", (name, end)
        assert not is_whole(plaintext + b"\x00"), name


_TAGS = {
    "array": axdr.ARRAY, "structure": axdr.STRUCTURE, "octet-string": axdr.OCTETS, "visible-string": axdr.TEXT,
    "double-long-unsigned": 0x06, "long-unsigned": 0x12, "double-long": 0x05, "long": 0x10, "integer": 0x0F,
    "unsigned": 0x11, "enum": 0x16, "null-data": 0x00, "utf8-string": 0x0C, "boolean": 0x03, "bit-string": 0x04,
    "long64-unsigned": 0x15, "long64": 0x14,
}  # fmt: skip


def _told(said: dict[str, object] | None) -> Item:
    """An item as the data file writes it."""
    if said is None:
        return Item(0, None)
    ((kind, value),) = said.items()
    tag = _TAGS[kind]
    if isinstance(value, list):
        return Item(tag, [_told(one) for one in value])
    if tag == axdr.OCTETS:
        return Item(tag, bytes.fromhex(str(value)))
    return Item(tag, value.encode() if isinstance(value, str) else value)  # type: ignore[arg-type]


def test_real_bodies_decode_to_what_their_entries_say() -> None:
    looked_at = 0
    for name, said, plaintext in plaintexts():
        if "body" in said:
            looked_at += 1
            assert parse_data_notification(plaintext).body == _told(said["body"]), name
            assert parse_data_notification(plaintext).invoke_id == said["invoke_id"], name
    assert looked_at > 15


def test_an_event_notification_says_its_object() -> None:
    found = parse_event_notification(bytes.fromhex(SYNTHETIC["ca_glo_event_notification"]["plain"]))
    assert (found.class_id, found.obis.hex(), found.attribute, found.body) == (1, "0000600b00ff", 2, Item(0x12, 33))
    assert found.date_time.hex() == "07e9070e010a0f0000ff8880"


@pytest.mark.parametrize(
    ("octets_", "why"),
    [
        ("0201" * 9 + "00", "inside of each other"),
        ("0184ffffffff00", "announced"),
        (SYNTHETIC["neg_compact_zero_width"]["plain"][36:], "takes no octet"),
        ("13020100810100", "takes no octet"),
        ("1301ffff02030000000100", "items"),
        ("0982ffff00", "announced"),
        ("07", "no type of data"),
        ("09", "length should be"),
        ("", "announced"),
        ("0000", "follow"),
        ("13130600", "inside of a compact array"),
    ],
)
def test_data_beyond_the_bounds_are_refused(octets_: str, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        decode(bytes.fromhex(octets_))


def test_eight_containers_deep_and_no_more_items_than_the_bound() -> None:
    assert decode(bytes.fromhex("0201" * 8 + "00")).tag == axdr.STRUCTURE
    most = axdr.MOST_ITEMS - 1
    assert len(decode(b"\x01\x82" + most.to_bytes(2, "big") + bytes(most)).value or ()) == most  # type: ignore[arg-type]
    with pytest.raises(MalformedError, match="items"):
        decode(b"\x01\x82" + (most + 1).to_bytes(2, "big") + bytes(most + 1))


SOME_DATA = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda whole, at, octet: whole[: at % len(whole)] + octet + whole[at % len(whole) + 1 :],
        st.sampled_from([plain[5:] for _, _, plain in plaintexts()]),
        st.integers(0, 4096),
        st.binary(max_size=3),
    ),
    st.builds(
        bytes.__add__, st.sampled_from([b"\x13\x01\xff\xff", b"\x13\x02\x05", b"\x01\x84"]), st.binary(max_size=60)
    ),
)


def _items(item: Item) -> int:
    return 1 + sum(map(_items, item.value)) if isinstance(item.value, list) else 1


def _decode_within_bounds(some: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert _items(decode(some)) <= axdr.MOST_ITEMS
    is_whole(b"\x0f\x00\x00\x00\x00\x00" + some)


@given(SOME_DATA)
@settings(max_examples=80, deadline=None)
def test_no_data_do_harm(some: bytes) -> None:
    _decode_within_bounds(some)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@given(SOME_DATA)
@settings(max_examples=20_000, deadline=None)
def test_no_data_do_harm_at_length(some: bytes) -> None:
    _decode_within_bounds(some)
