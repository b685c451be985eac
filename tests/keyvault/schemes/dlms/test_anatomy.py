"""What people see of DLMS frames: each layer, or the octet at which one breaks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault.schemes.dissector import dissect
from tests.dlms_frames import REAL, SYNTHETIC, octets

FRAMES = {
    name: octets(one) for name, one in (*REAL.items(), *SYNTHETIC.items()) if "raw" in one or "apdu" in one
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_is_told(name: str) -> None:
    assert dissect(FRAMES[name]).parts


def test_a_header_is_told_field_by_field() -> None:
    told = dissect(FRAMES["db_sc30"])
    assert [part.meaning for part in told.parts] == [
        "general-glo-ciphering", "system title 545354ae6af2a9a4", "length: 142 octets follow",
        "security control 30: DLMS SC 30", "invocation counter 2,381,219", "ciphertext", "tag",
    ]  # fmt: skip
    assert b"".join(part.octets for part in told.parts) == FRAMES["db_sc30"]
    assert told.wrong is None


def test_links_and_blocks_are_told() -> None:
    meanings = [part.meaning for part in dissect(FRAMES["tr_hdlc_gbt"]).parts]
    assert meanings[0].startswith("HDLC frame from 0223 to cf")
    assert meanings[1] == "block 1 of general-block-transfer"
    assert meanings[5] == "block 3 of general-block-transfer, the last"
    assert "counted modulo 256: L says 1" in dissect(FRAMES["fkw9_2"]).parts[0].meaning
    assert dissect(FRAMES["tr_wrapper"]).parts[0].meaning.startswith("TCP wrapper")


def test_what_is_not_taken_says_why() -> None:
    assert dissect(FRAMES["neg_plain_0f"]).wrong == "a data notification in clear"
    broken = dissect(FRAMES["tr_hdlc_bad_fcs"])
    assert broken.wrong == "the frame check sequence of an HDLC frame does not fit"
    assert any(part.is_wrong for part in broken.parts)


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 4096), st.binary(max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_octets_do_harm(name: str, at: int, other: bytes) -> None:
    whole = FRAMES[name]
    dissect(whole[: at % len(whole)] + other + whole[at % len(whole) + 1 :])
