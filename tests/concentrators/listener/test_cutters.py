"""Streams are cut into the notifications that they hold, however the octets come."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concentrators.listener.cutters import CUTTERS, Cutter
from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms import framing
from keyvault.schemes.dlms.crc import crc_x25
from keyvault.schemes.dlms.envelope import MAX_OCTETS
from keyvault.schemes.dlms.framing import unwrap

APDU = b"\xdb\x08" + bytes(8) + b"\x14" + bytes(range(20))


def wrapped(apdu: bytes, source: int = 1) -> bytes:
    return b"\x00\x01" + source.to_bytes(2, "big") + b"\x00\x67" + len(apdu).to_bytes(2, "big") + apdu


def hdlc(information: bytes, *, more: bool = False, source: int = 3) -> bytes:
    length = len(information) + 9
    head = (0xA000 | 0x0800 * more | length).to_bytes(2, "big") + bytes((0xCF, source, 0x13))
    checked = head + crc_x25(head).to_bytes(2, "little") + information
    return b"\x7e" + checked + crc_x25(checked).to_bytes(2, "little") + b"\x7e"


def mbus(data: bytes, ci: int = 0x10) -> bytes:
    counted = bytes((0x53, 0xFF, ci, 1, 0x67)) + data
    length = len(counted) & 0xFF
    return bytes((0x68, length, length, 0x68)) + counted + bytes((sum(counted) & 0xFF, 0x16))


def blocks_of(apdu: bytes, size: int = 9) -> list[bytes]:
    parts = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    return [
        b"\xe0" + bytes((0x80 * (number == len(parts)),)) + number.to_bytes(2, "big") + bytes((0, 0, len(part))) + part
        for number, part in enumerate(parts, 1)
    ]


LONG = b"\xdb\x08" + bytes(8) + b"\x82\x00\xf7" + bytes(247)  # its M-Bus length is counted modulo 256
STREAMS = {
    "wrapper": [wrapped(APDU), b"".join(wrapped(block) for block in blocks_of(APDU)), wrapped(APDU[::-1])],
    "hdlc": [
        hdlc(b"\xe6\xe7\x00" + APDU),
        hdlc(b"\xe6\xe7\x00" + APDU[:7], more=True) + hdlc(APDU[7:20], more=True) + hdlc(APDU[20:]),
        b"".join(hdlc(b"\xe6\xe7\x00" + block) for block in blocks_of(APDU)),
        hdlc(b"\x7e" + APDU),
    ],
    "mbus": [mbus(APDU), mbus(APDU[:9], 0) + mbus(APDU[9:18], 1) + mbus(APDU[18:], 0x12), mbus(LONG)],
}


def cut(cutter: Cutter, stream: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(at), len(stream)]
    return [one for start, end in pairwise(places) for one in cutter.feed(stream[start:end])]


@pytest.mark.parametrize("link", STREAMS)
def test_notifications_come_whole_however_the_octets_come(link: str) -> None:
    stream = b"".join(STREAMS[link])
    for seed in range(20):
        rng = random.Random(seed)
        cutter = CUTTERS[link]()
        found = cut(cutter, stream, [rng.randrange(len(stream)) for _ in range(rng.randrange(40))])
        assert [unwrap(one) for one in found] == [unwrap(one) for one in STREAMS[link]]
        assert not cutter.is_amid()


def test_junk_costs_no_checksum_of_whole_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Octets that say the length of a long frame again and again are refused by the check of its header."""
    checked = []

    def noted(octets: bytes) -> int:
        checked.append(len(octets))
        return crc_x25(octets)

    monkeypatch.setattr(framing, "crc_x25", noted)
    junk, cutter = b"\x7e\xa7\xff" * 1_000, CUTTERS["hdlc"]()
    assert cutter.feed(junk) == []
    assert 0 < sum(checked) <= 4 * len(junk)


@pytest.mark.parametrize("link", ["hdlc", "mbus"])
def test_what_is_no_frame_between_frames_is_passed_over(link: str) -> None:
    cutter = CUTTERS[link]()
    frame = STREAMS[link][0]
    damaged = frame[:12] + bytes((frame[12] ^ 1,)) + frame[13:]
    found = cutter.feed(b"\x00noise\x16" + frame + b"\x10\x40\x01\x41\x16" + damaged + bytes(300) + frame + frame)
    assert [unwrap(one) for one in found] == [APDU] * 3


def test_two_senders_on_one_line_do_not_mix() -> None:
    cutter = CUTTERS["wrapper"]()
    mine, other = blocks_of(APDU), blocks_of(APDU[::-1])
    stream = b"".join(wrapped(a, 1) + wrapped(b, 2) for a, b in zip(mine, other, strict=True))
    assert [unwrap(one) for one in cutter.feed(stream)] == [APDU, APDU[::-1]]


def test_a_series_begins_again_at_its_first_block() -> None:
    cutter = CUTTERS["wrapper"]()
    series = [wrapped(block) for block in blocks_of(APDU)]
    (found,) = cutter.feed(b"".join([*series[:2], *series]))
    assert unwrap(found) == APDU


def test_what_is_no_wrapper_or_is_too_long_ends_the_stream() -> None:
    for wrong in (b"GET / HTTP/1.1\r\n\r\n", wrapped(bytes(MAX_OCTETS))[:8]):
        with pytest.raises(MalformedError):
            CUTTERS["wrapper"]().feed(wrong)


def test_a_series_without_an_end_is_not_kept_for_ever() -> None:
    cutter = CUTTERS["wrapper"]()
    block = b"\xe0\x00\x00\x02\x00\x00\x82\x03\xe8" + bytes(1000)
    for _ in range(50):
        assert cutter.feed(wrapped(block)) == []
    assert sum(map(len, cutter._begun.values())) <= MAX_OCTETS


@pytest.mark.parametrize("link", STREAMS)
@given(data=st.data())
def test_no_octets_crash_a_cutter_or_fill_it(link: str, data: st.DataObject) -> None:
    cutter = CUTTERS[link]()
    known = st.sampled_from([piece for stream in STREAMS.values() for piece in stream])
    for octets in data.draw(st.lists(st.binary(max_size=64) | known, max_size=12)):
        try:
            cutter.feed(octets)
        except MalformedError:
            return
    assert len(cutter._rest) <= 2 * MAX_OCTETS
    cutter.drop()
    assert not cutter.is_amid()
