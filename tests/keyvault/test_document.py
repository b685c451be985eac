"""Every octet that docs/frame.md gives as an answer: made again by the document's rules alone, and by the product."""

import hashlib
import re
from pathlib import Path

import cbor2
import pytest
from cryptography.exceptions import InvalidTag

from keyvault.cose.algorithms import command_algorithm
from keyvault.cose.kdf import derived_device_key, downlink_key, kdf_context, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import encode_sequence, make_kid, parse_frame, split_sequence
from meters.readings.senml import parse_pack
from tests.keyvault import by_document

DOCUMENT = Path(__file__).parents[2] / "docs" / "frame.md"
TITLE = bytes.fromhex("0024befffe804ff1")
DEVICE, TRANSFER, NEW = (bytes(range(first, first + 32)) for first in (0, 32, 64))
TIME_S = 1_767_225_600
AGREED = bytes.fromhex("b9a73eed2e5653042f8b885c6c216d733a3ba8d112f56c7cac06340b9bf04e48")  # docs/schemes.md
HEAD_END = bytes.fromhex("493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d")
DOWN = 0x6955B90000  # 256 times TIME_S
_RUN = re.compile(r"\b[0-9a-f]{20,}\b")

PAYLOAD = bytes.fromhex(
    "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
)
FRAUD = cbor2.dumps([{0: "0-0:96.11.1", 1: "count", 2: 40, 6: TIME_S}])
DONE = cbor2.dumps([{0: "0-0:96.13.0", 1: "count", 2: 17, 6: TIME_S + 1}])
LATE = cbor2.dumps([{0: "0-0:96.13.2", 1: "count", 2: 20, 6: TIME_S}])


def quarters(count: int) -> bytes:
    """So many quarters of an hour in one pack."""
    first = {-1: 26, -3: TIME_S, -2: "1-0:1.29.0", -4: "Wh", 2: 100}
    return cbor2.dumps([first, *({6: 900 * n, 2: 100 + n} for n in range(1, count))])


# What is sealed: under which key, alg, epoch and counter.
UPLINKS = [
    (DEVICE, 10, 1, 0x61A7, PAYLOAD),
    (DEVICE, 11, 1, 0x61A7, PAYLOAD),
    *((DEVICE, 10, 1, counter, FRAUD) for counter in (0, 0xFF, 0x100, 0x10000, 0xFFFFFFFF, 0xFFFFFFFFFF)),
    (DEVICE, 10, 258, 0, FRAUD),
    (NEW, 10, 2, 0, DONE),
    (DEVICE, 10, 1, 0x61A9, LATE),
]
COMMANDS = [
    (TRANSFER, 30, 0, DOWN + 4, [1, 22, 2, NEW, 10, 1]),
    (AGREED, 30, 0, DOWN + 5, [6, 23, 2, 10, 0, HEAD_END]),
    (DEVICE, 30, 1, DOWN + 6, [7, 24, bytes.fromhex("0024befffe00c001")]),
    (TRANSFER, 30, 0, DOWN + 7, [1, 25, 2, NEW, -65537, 4, HEAD_END]),
    (TRANSFER, 30, 0, DOWN, [1, 17, 2, NEW, 10]),
    (DEVICE, 30, 1, DOWN, [2, 18]),
    (DEVICE, 30, 1, DOWN + 1, [3, 19, 1_767_139_200, TIME_S]),
    (DEVICE, 30, 1, DOWN + 2, [4, 20, TIME_S]),
    (DEVICE, 30, 1, DOWN + 3, [5, 21, 15, 1_767_312_000]),
    (DEVICE, 30, 1, DOWN + 256 * 60, [4, 20, TIME_S + 60, 0x61AA]),
    (DEVICE, 31, 1, DOWN, [2, 18]),
    (TRANSFER, 31, 0, DOWN, [1, 17, 2, NEW, 11]),
]
KEYS = [  # device key, alg, epoch
    (DEVICE, 10, 1),
    (DEVICE, 11, 1),
    (DEVICE, 30, 1),
    (DEVICE, 31, 1),
    (TRANSFER, 30, 0),
    (TRANSFER, 31, 0),
    (DEVICE, 10, 258),
    (NEW, 10, 2),
]


def by_product(device_key: bytes, alg: int, epoch: int, counter: int, plaintext: bytes) -> bytes:
    derive = uplink_key if alg < 30 else downlink_key
    return DirectionCipher(derive(device_key, TITLE, epoch, alg), alg).seal(make_kid(TITLE, epoch), counter, plaintext)


def answers() -> set[str]:
    """All known answers, computed by the product."""
    day = quarters(96)
    day_frame = by_product(DEVICE, 10, 1, 0x61AA, day)
    frames = [by_product(*one) for one in UPLINKS]
    event = by_product(DEVICE, 10, 1, 0x61A8, FRAUD)
    sequence = encode_sequence([frames[0], event])
    own_times = [
        {-1: 26, -3: TIME_S, 0: "1-0:1.29.0", 1: "Wh", 2: 112},
        {0: "1-0:1.8.0", 1: "Wh", 2: 1_234_679, 6: 1800},
    ]
    traffic_keys = [(uplink_key if alg < 30 else downlink_key)(key, TITLE, epoch, alg) for key, alg, epoch in KEYS]
    epoch = (1).to_bytes(2, "big")
    parties, commanding = ((TITLE, epoch), (b"HES", None)), ((b"HES", epoch), (TITLE, None))
    nonce = int.from_bytes(traffic_keys[0].base_iv, "big") ^ 0x61A7
    octets = [
        *frames,
        *(by_product(*one[:4], cbor2.dumps(one[4])) for one in COMMANDS),
        *(cbor2.dumps(one[4]) for one in COMMANDS[:10]),
        *(key.key for key in traffic_keys),
        *(key.base_iv for key in traffic_keys),
        kdf_context(10, 128, *parties),
        kdf_context(11, 256, *parties),
        kdf_context(31, 256, *commanding),
        kdf_context("IV-GENERATION", 104, *parties),
        nonce.to_bytes(13, "big"),
        parse_frame(frames[0]).protected,
        derived_device_key(DEVICE, TITLE, 1),
        FRAUD,
        DONE,
        LATE,
        quarters(3),
        cbor2.dumps(own_times),
        hashlib.sha256(day).digest(),
        hashlib.sha256(day_frame).digest(),
        day_frame[:40],
        *(encode_sequence([frame]) for frame in (frames[0], event)),
        hashlib.sha256(sequence).digest(),
    ]
    return {one.hex() for one in octets}


def given() -> dict[str, int]:
    """Runs of ten octets and more in the document, by where they stand; one that fills lines is one."""
    found: dict[str, int] = {}
    run, begun = "", 0
    for number, line in enumerate([*map(str.strip, DOCUMENT.read_text().splitlines()), ""], 1):
        is_all_octets = re.fullmatch(r"[0-9a-f]+", line) is not None
        if run and (not is_all_octets or line.startswith(("d083", "58", "81a4"))):
            found[run] = begun
            run = ""
        if is_all_octets:
            run, begun = run + line, begun if run else number
        else:
            found.update((one, number) for one in _RUN.findall(line))
    return found


# Texts: two in info strings, and an OBIS code.
TEMPLATES = {one.encode().hex() for one in ("ami-headend device key", "IV-GENERATION", "1-0:1.29.0")}


def test_every_octet_in_the_document_is_a_known_answer_and_every_known_answer_is_there() -> None:
    computed, written = answers(), given()
    wrong = {line: run for run, line in written.items() if run not in computed | TEMPLATES and not _is_cut(run, line)}
    assert wrong == {}
    text = "".join(DOCUMENT.read_text().split())
    assert [one for one in computed if one not in text] == []


def _is_cut(run: str, line: int) -> bool:
    """Whether a run stands before or after an ellipsis."""
    text = DOCUMENT.read_text().splitlines()[line - 1]
    return f"{run}…" in text or f"…{run}" in text


@pytest.mark.parametrize("one", UPLINKS, ids=str)
def test_uplinks_by_the_document_alone(one: tuple[bytes, int, int, int, bytes]) -> None:
    device_key, alg, epoch, counter, payload = one
    octets = by_document.seal(device_key, alg, TITLE, epoch, counter, payload)
    assert octets == by_product(*one)
    assert by_document.open_(device_key, octets) == payload
    assert parse_frame(octets).alg == alg
    assert parse_pack(payload)


@pytest.mark.parametrize("one", COMMANDS, ids=str)
def test_commands_by_the_document_alone(one: tuple[bytes, int, int, int, list[object]]) -> None:
    device_key, alg, epoch, counter, fields = one
    octets = by_product(device_key, alg, epoch, counter, cbor2.dumps(fields))
    assert by_document.seal(device_key, alg, TITLE, epoch, counter, cbor2.dumps(fields)) == octets
    assert cbor2.loads(by_document.open_(device_key, octets)) == fields
    damaged = octets[:-1] + bytes([octets[-1] ^ 1])
    with pytest.raises(InvalidTag):
        by_document.open_(device_key, damaged)


@pytest.mark.parametrize(("device_key", "alg", "epoch"), KEYS, ids=str)
def test_keys_by_the_document_alone(device_key: bytes, alg: int, epoch: int) -> None:
    direction = by_document.UPLINK if alg < 30 else by_document.DOWNLINK
    derived = (uplink_key if alg < 30 else downlink_key)(device_key, TITLE, epoch, alg)
    assert by_document.keys(device_key, alg, direction, TITLE, epoch) == (derived.key, derived.base_iv)


def test_a_day_of_quarters_is_one_frame() -> None:
    payload = quarters(96)
    octets = by_document.seal(DEVICE, 10, TITLE, 1, 0x61AA, payload)
    assert (len(payload), len(octets)) == (837, 871)
    records = parse_pack(payload)
    assert [(one.name, one.unit, one.value, one.time_s) for one in records] == [
        ("1-0:1.29.0", "Wh", 100 + n, TIME_S + 900 * n) for n in range(96)
    ]


def test_the_uplink_is_a_sequence_of_byte_strings() -> None:
    frames = [by_product(DEVICE, 10, 1, 0x61A7, PAYLOAD), by_product(DEVICE, 10, 1, 0x61A8, FRAUD)]
    body = b"".join(bytes([0x58, len(one)]) + one for one in frames)
    assert len(body) == 153
    assert list(split_sequence(body)) == frames


def test_which_alg_goes_with_which() -> None:
    assert [command_algorithm(alg) for alg in (10, 11)] == [30, 31]
    assert command_algorithm(4) == 30  # of an envelope without AES-CCM
