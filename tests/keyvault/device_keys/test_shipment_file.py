"""The file of wrapped keys: the example of docs/shipments.md to the octet, and whatever is wrong with a file."""

import gzip
import pickle
import random
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.device_keys import shipment_file, shipment_kek
from keyvault.device_keys.shipment_file import ShipmentError, ShipmentHeader, ShipmentLine, read
from keyvault.device_keys.shipment_kek import TransportKey, TransportKeyError, TransportUnwrapError
from keyvault.device_keys.weak_keys import weakness
from tests.keyvault.shipping import TRANSPORT, header, line, text, transport_file, wrapped

# The same in every process: pytest-xdist compares the names of parametrized tests.
RANDOM = random.Random(3394)
TITLE = bytes.fromhex("0024befffe804ff1")
EXAMPLE_KEY = bytes.fromhex("4daf40da346e817a09712ea1ea990b6f530bb6c3fbcc421b524da424b6915806")
EXAMPLE_TRANSPORT = TransportKey(bytes(range(0x40, 0x60)))
EXAMPLE_TRANSFER_KEY = bytes(range(0x20, 0x40))


def read_octets(folder: Path, octets: bytes) -> shipment_file.Shipment:
    path = folder / "shipment"
    path.write_bytes(octets)
    return read(path)


def reasons(folder: Path, *lines: Any) -> list[str]:
    return [bad.reason for bad in read_octets(folder, text(lines)).bad]


class TestExample:
    document = (Path(settings.BASE_DIR) / "docs" / "shipments.md").read_text()
    octets = re.sub(r",\n ", ", ", document.split("```\n")[1]).encode()

    def test_it_is_what_we_write(self) -> None:
        assert self.octets == shipment_file.encode_header(
            ShipmentHeader("EXAMPLE-1", EXAMPLE_TRANSPORT.fingerprint, 1)
        ) + shipment_file.encode_line(
            ShipmentLine(
                2, TITLE, 1, AES_CCM_16_64_128,
                EXAMPLE_TRANSPORT.wrap(EXAMPLE_KEY), EXAMPLE_TRANSPORT.wrap(EXAMPLE_TRANSFER_KEY),
            )
        )  # fmt: skip

    def test_it_is_what_we_read(self, tmp_path: Path) -> None:
        shipment = read_octets(tmp_path, self.octets)
        assert (shipment.header.shipment, shipment.header.transport_key.hex()) == ("EXAMPLE-1", "877db146df29200c")
        assert shipment.bad == []
        (found,) = shipment.lines
        assert found[:4] == (2, TITLE, 1, AES_CCM_16_64_128)
        assert found.key is not None
        assert found.key.hex() in self.document
        assert EXAMPLE_TRANSPORT.unwrap(found.key) == EXAMPLE_KEY
        assert found.transfer_key is not None
        assert found.transfer_key.hex() in self.document
        assert EXAMPLE_TRANSPORT.unwrap(found.transfer_key) == EXAMPLE_TRANSFER_KEY

    def test_its_keys_are_published_and_unfit(self) -> None:
        assert weakness(EXAMPLE_KEY) == "is a published example"
        assert weakness(EXAMPLE_TRANSFER_KEY) is not None


class TestFile:
    def test_plain_and_gzip_are_alike(self, tmp_path: Path) -> None:
        octets = text([line(TITLE), line(bytes(8), epoch=3, transfer_key=b"", algorithm="AES-CCM-16-64-256")])
        plain, packed = read_octets(tmp_path, octets), read_octets(tmp_path, gzip.compress(octets))
        assert plain[:3] == packed[:3]
        assert [(one.line, one.epoch, one.algorithm) for one in plain.lines] == [(2, 1, None), (3, 3, 11)]
        assert plain.sha256 != packed.sha256

    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
    def test_half_a_packed_file(self, tmp_path: Path, keep: float) -> None:
        octets = gzip.compress(text([line(RANDOM.randbytes(8)) for _ in range(50)]))
        with pytest.raises(ShipmentError, match="cut off or damaged"):
            read_octets(tmp_path, octets[: int(len(octets) * keep)])

    def test_half_a_plain_file(self, tmp_path: Path) -> None:
        lines = text([line(TITLE), line(bytes(8))]).splitlines(keepends=True)
        with pytest.raises(ShipmentError, match="says 2 meters, but 1 line follows: the file is cut off"):
            read_octets(tmp_path, b"".join(lines[:2]))
        cut = read_octets(tmp_path, b"".join(lines)[:-30])
        assert cut.bad == [(3, "it is not JSON in UTF-8")]

    def test_more_lines_than_the_header_says(self, tmp_path: Path) -> None:
        with pytest.raises(ShipmentError, match="says 1 meter, but more lines follow"):
            read_octets(tmp_path, text([line(TITLE), line(bytes(8))], header(1)))

    @pytest.mark.parametrize(
        ("first", "reason"),
        [
            ({"shipment": "S"}, "meters is missing"),
            (header(1, more=1), "field 'more' is not one of"),
            (header(0), "meters is not a whole number from 1"),
            ({**header(1), "meters": True}, "meters is not"),
            (header(1, shipment="../x\n"), "a shipment's name has"),
            (header(1, shipment=7), "shipment is not text"),
            (
                header(1, transport_key=RANDOM.randbytes(32).hex()),
                "no fingerprint: 16 hex digits in lower case, never the",
            ),
            ([1], "no JSON object"),
            (line(TITLE), "is not one of"),
        ],
    )
    def test_a_bad_header(self, tmp_path: Path, first: Any, reason: str) -> None:
        with pytest.raises(ShipmentError, match=f"line 1 is no header of a shipment: .*{reason}"):
            read_octets(tmp_path, text([line(TITLE)], first))

    def test_no_file_and_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(ShipmentError, match="No such file"):
            read(tmp_path / "none")
        with pytest.raises(ShipmentError, match="Is a directory"):
            read(tmp_path)
        with pytest.raises(ShipmentError, match="not JSON"):
            read_octets(tmp_path, b"")
        with pytest.raises(ShipmentError, match="longer than"):
            read_octets(tmp_path, text([{**line(TITLE), "more": "x" * 3000}]))

    @given(st.binary(max_size=200))
    def test_noise_is_a_bad_line_and_no_traceback(self, noise: bytes) -> None:
        with pytest.raises(ValueError, match=r"JSON|system_title|field"):
            shipment_file._line(2, noise)


class TestLine:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"system_title": "0024befffe804ff"}, "system_title is not 16 hex digits"),
            ({"system_title": 5}, "system_title is not 16 hex digits"),
            ({"epoch": 0}, "epoch is not a whole number from 1 to 65535"),
            ({"epoch": 65536}, "epoch is not"),
            ({"epoch": 1.0}, "epoch is not"),
            ({"epoch": True}, "epoch is not"),
            ({"algorithm": "A128GCM"}, "algorithm is not one of 'AES-CCM-16-64-128', 'AES-CCM-16-64-256'"),
            ({"algorithm": None}, "algorithm is not one of"),
            ({"scheme": 1}, "scheme is not text"),
            ({"scheme": "of old"}, "scheme 'of old' is not one of ccm"),
            (
                {"name": "x"},
                "field 'name' is not one of algorithm, epoch, key, public_key, scheme, system_title, ",
            ),
            ({"key": "%%%"}, "key is not base64 of 40 octets"),
            ({"key": 7}, "key is not base64 of 40 octets"),
            ({"transfer_key": wrapped(bytes(32))[:-4]}, "transfer_key is not base64 of 40 octets"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
        (found,) = reasons(tmp_path, {**line(TITLE), **change})
        assert found.startswith(reason)

    def test_fields_go_together(self, tmp_path: Path) -> None:
        whole = line(TITLE)
        for missing in ("epoch", "key"):
            without = {name: value for name, value in whole.items() if name != missing}
            assert reasons(tmp_path, without) == ["epoch and key go together: one of them is missing"]
        assert reasons(tmp_path, {"system_title": TITLE.hex()}) == [
            "there is neither key nor transfer_key, nor public_key"
        ]

    def test_a_field_or_a_meter_that_stands_twice(self, tmp_path: Path) -> None:
        twice = text([line(TITLE)]).replace(b'"epoch": 1', b'"epoch": 1, "epoch": 2')
        assert read_octets(tmp_path, twice).bad == [(2, "a field stands twice")]
        assert reasons(tmp_path, line(TITLE), line(TITLE, 2)) == [f"system title {TITLE.hex()} is already in line 2"]

    def test_a_plain_key_is_named_and_never_repeated(self, tmp_path: Path) -> None:
        key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="  # 32 octets
        (reason,) = reasons(tmp_path, {**line(TITLE), "key": key})
        assert "as a plain key has: it must be wrapped" in reason
        assert key[:8] not in reason


class TestTransportKey:
    def test_octets_and_digits_are_alike(self, tmp_path: Path) -> None:
        wrapping = TransportKey(TRANSPORT).wrap(EXAMPLE_KEY)
        for content in (TRANSPORT, TRANSPORT.hex().encode(), TRANSPORT.hex().upper().encode() + b"\r\n"):
            assert shipment_kek.load(transport_file(tmp_path, content)).unwrap(wrapping) == EXAMPLE_KEY

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
    def test_a_file_that_others_may_read(self, tmp_path: Path, mode: int) -> None:
        path = transport_file(tmp_path)
        path.chmod(mode)
        with pytest.raises(TransportKeyError, match="chmod 600"):
            shipment_kek.load(path)

    @pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"zz" * 32, b"ab" * 32 + b"00"])
    def test_another_length(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(TransportKeyError, match="32 octets, or 64 hex digits"):
            shipment_kek.load(transport_file(tmp_path, content))

    def test_no_file_and_no_secret(self, tmp_path: Path) -> None:
        with pytest.raises(TransportKeyError, match="No such file"):
            shipment_kek.load(tmp_path / "none")
        with pytest.raises(TransportKeyError, match="make one of 32 random octets"):
            shipment_kek.load(transport_file(tmp_path, bytes(range(32))))

    def test_it_shows_nothing(self) -> None:
        key = TransportKey(TRANSPORT)
        assert TRANSPORT.hex() not in repr(key)
        assert repr(TRANSPORT)[2:-1] not in repr(key)
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(key)

    def test_a_flipped_bit_does_not_open(self) -> None:
        octets = bytearray(EXAMPLE_TRANSPORT.wrap(EXAMPLE_KEY))
        for position in range(len(octets)):
            octets[position] ^= 1
            with pytest.raises(TransportUnwrapError):
                EXAMPLE_TRANSPORT.unwrap(bytes(octets))
            octets[position] ^= 1

    def test_the_vector_of_rfc_3394_section_4_6(self) -> None:
        kek = TransportKey(bytes(range(32)))
        data = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
        assert kek.wrap(data).hex() == (
            "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
        )


class TestWeakness:
    @pytest.mark.parametrize(
        "key",
        [
            bytes(32),
            b"\xff" * 32,
            bytes(range(32)),
            bytes(range(200, 168, -1)),
            bytes((n * 7 + 250) % 256 for n in range(32)),
            TITLE * 4,
            TITLE + bytes(24),
            RANDOM.randbytes(24) + TITLE,
            TITLE.hex().encode() + RANDOM.randbytes(16),
            TITLE.hex().upper().encode() * 2,
            b"\x01\x02" * 16,
            RANDOM.randbytes(16) * 2,
            (RANDOM.randbytes(5) * 7)[:32],
            bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"),
            EXAMPLE_KEY,
            RANDOM.randbytes(16).hex().encode(),
            b"correct horse battery staple 123",
            bytes(22) + RANDOM.randbytes(10),
        ],
    )
    def test_no_secrets(self, key: bytes) -> None:
        assert weakness(key, TITLE) is not None

    @pytest.mark.parametrize("rest", [b"\xff" * 20, b"\xff" * 4 + RANDOM.randbytes(16)], ids=["32", "16"])
    def test_an_eui_48_twice_and_ff_is_a_vendors_default(self, rest: bytes) -> None:
        assert weakness(TITLE[:3] + TITLE[5:] + TITLE[:3] + TITLE[5:] + rest) == (
            "is a vendor's default: an EUI-48 twice, and ff"
        )

    def test_random_keys_pass(self) -> None:
        assert [weakness(RANDOM.randbytes(32), TITLE) for _ in range(2_000)] == [None] * 2_000
