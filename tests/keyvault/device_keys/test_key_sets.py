"""Key sets of DLMS meters: brought by shipments, exported, rewrapped, rotated by import, and never made here."""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from keyvault.device_keys import commandable, epochs, key_rows, provisioning
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.unwrapping import open_keys
from keyvault.device_keys.weak_keys import set_weakness
from keyvault.master_key import census
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import SchemeError
from tests.keyvault.shipping import shipment_file, transport_file, wrapped

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("545354ae6af2a9a4")
GUEK, GAK, KEK, *MORE = (sha256(bytes((number,))).digest()[:16] for number in range(8))


def line(title: bytes = TITLE, **more: Any) -> dict[str, Any]:
    fields = {
        "system_title": title.hex(), "epoch": 1, "scheme": "dlms", "guek": wrapped(GUEK), "gak": wrapped(GAK),
        "kek": wrapped(KEK),
    }  # fmt: skip
    return {name: value for name, value in {**fields, **more}.items() if value is not None}


def bring(folder: Path, lines: Sequence[Any], *more: str) -> str:
    out = StringIO()
    path = shipment_file(folder, lines)
    call_command("import_keys", str(path), "--transport-key", str(transport_file(folder)), *more, stdout=out)
    return out.getvalue()


def octets_of(title: bytes = TITLE) -> dict[int, bytes]:
    rows = DeviceKey.objects.filter(system_title=title)
    return {key.epoch: key.octets for key in open_keys([row.pk for row in rows])}


class TestShipments:
    def test_a_set_is_stored_as_it_came(self, tmp_path: Path) -> None:
        assert "1 active key, 0 pending, 1 transfer key" in bring(tmp_path, [line()])
        assert octets_of() == {0: KEK, 1: GUEK + GAK}
        assert "2 unchanged" in bring(tmp_path, [line()])

    def test_suite_2_has_longer_keys(self, tmp_path: Path) -> None:
        keys = [secrets.token_bytes(32) for _ in range(3)]
        names: dict[str, Any] = dict(zip(("guek", "gak", "kek"), map(wrapped, keys), strict=True))
        bring(tmp_path, [line(algorithm="DLMS SC 32", **names)])
        assert octets_of() == {0: keys[2], 1: keys[0] + keys[1]}

    def test_a_meter_that_only_encrypts_needs_no_gak(self, tmp_path: Path) -> None:
        bring(tmp_path, [line(scheme="dlms without tag", gak=None, kek=None)])
        assert octets_of() == {1: GUEK + bytes(16)}

    def test_the_next_set_is_pending(self, tmp_path: Path) -> None:
        bring(tmp_path, [line()])
        bring(tmp_path, [line(epoch=2, guek=wrapped(secrets.token_bytes(16)), kek=None)])
        states = dict(DeviceKey.objects.filter(epoch__gt=0).values_list("epoch", "state"))
        assert states == {1: KeyState.ACTIVE, 2: KeyState.PENDING}

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"gak": None}, "gak is required"),
            ({"scheme": "ccm"}, "are of DLMS meters"),
            ({"scheme": None}, "are of DLMS meters"),
            ({"guek": None}, "guek and epoch are required"),
            ({"key": wrapped(secrets.token_bytes(32))}, "is not one of"),
            ({"guek": wrapped(secrets.token_bytes(32))}, "24 octets"),
            ({"guek": wrapped(bytes.fromhex("00112233445566778899aabbccddeeff"))}, "count up or down"),
            ({"gak": wrapped(GUEK)}, "one key twice"),
            ({"kek": wrapped(bytes.fromhex("36c66639e48a8ca4d6bc8b282a793bbb"))}, "published example"),
            ({"algorithm": "DLMS SC 20"}, "algorithm is not one of"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(CommandError, match="nothing was imported"):
            bring(tmp_path, [line(**changes)])
        assert why in capsys.readouterr().err
        assert not DeviceKey.objects.exists()

    def test_an_export_comes_back(self, tmp_path: Path) -> None:
        other = TITLE[:7] + b"\x01"
        encrypting = line(other, scheme="dlms without tag", guek=wrapped(MORE[0]), gak=None, kek=None)
        bring(tmp_path, [line(), encrypting])
        before = octets_of(), octets_of(other)
        titles, exported = tmp_path / "titles", tmp_path / "exported.jsonl"
        titles.write_text(f"{TITLE.hex()}\n{other.hex()}\n")
        key = str(transport_file(tmp_path))
        names = ("--transport-key", key, "--meters-from", str(titles), "--output", str(exported))
        call_command("export_keys", *names, stdout=StringIO())
        DeviceKey.objects.all().delete()
        call_command("import_keys", str(exported), "--transport-key", key, stdout=StringIO())
        assert (octets_of(), octets_of(other)) == before


class TestVault:
    @pytest.fixture(autouse=True)
    def stored(self) -> None:
        key_set = provisioning.NewKey(TITLE, 1, GUEK + GAK, -65600 - 0x30, "dlms")
        provisioning.provision_stored([key_set, key_set._replace(epoch=0, key=KEK)])

    def test_it_is_counted_and_opened_with_all_others(self) -> None:
        assert not census.verify().faults
        assert {key_rows.purpose_of(row.epoch, row.source, row.scheme) for row in DeviceKey.objects.all()} == {"dlms"}

    def test_it_opens_for_no_other_protocol(self) -> None:
        DeviceKey.objects.filter(epoch=1).update(scheme="ccm", algorithm=10)
        assert octets_of().keys() == {0}

    def test_no_next_key_is_made_here(self) -> None:
        with pytest.raises(EpochError, match="comes in a shipment"):
            epochs.begin([TITLE])
        with pytest.raises(SchemeError, match="come in a shipment"):
            provisioning.provision_devices([bytes(8)], scheme="dlms")

    def test_its_meter_takes_no_command(self) -> None:
        assert commandable.without_aes([TITLE]) == {TITLE}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (GUEK + GAK, None),
        (GUEK + bytes(16), None),
        (KEK, None),
        (GUEK + GUEK, "twice"),
        (bytes(range(16)) + GAK, "count up"),
        (GUEK + bytes.fromhex("101112131415161718191a1b1c1d1e1f"), "count up"),
        (b"\x55" * 16 + GAK, "repeated"),
        (b"12345678" * 2 + GAK, "pattern of 8"),
        (b"\x01\x02\x03\x05" * 2 + b"\x01\x03\x02\x05" * 2 + GAK, "different octets"),
        (b"".join(MORE[:4]), None),
        (bytes(32) + MORE[0] + MORE[1], "repeated"),
    ],
)  # fmt: skip
def test_each_key_of_a_set_is_looked_at(keys: bytes, why: str | None) -> None:
    found = set_weakness(keys)
    assert (found is None) if why is None else found is not None and why in found
