"""Shipments against the vault: what becomes active, pending, unchanged, replaced or refused; and what is exported."""

import gzip
import hashlib
import secrets
import stat
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs, key_export, key_rows, shipments
from keyvault.device_keys import shipment_file as shipmentfile
from keyvault.device_keys.key_rows import set_key_state
from keyvault.device_keys.provisioning import NewKey, create_fleet_key, provision_devices, provision_stored
from keyvault.device_keys.shipment_file import ShipmentError
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.device_keys.shipments import ShipmentReport
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import AuditRecord, DeviceKey, InvocationCounter, KeyState
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.table import SCHEMES
from tests.keyvault.agreeing import agreement_key
from tests.keyvault.shipping import TRANSPORT, header, line, shipment_file, transfer_line, transport_file, wrapped
from tests.toy_schemes import toys

pytestmark = pytest.mark.django_db
OFFICER = Actor("officer", "192.0.2.7")
TITLE = bytes.fromhex("0024befffe00a001")
OTHER = bytes.fromhex("0024befffe00a002")
KEY, TRANSFER_KEY, THIRD = (secrets.token_bytes(32) for _ in range(3))


def take(folder: Path, *lines: Any, **options: bool | str) -> ShipmentReport:
    shipment = shipmentfile.read(shipment_file(folder, lines))
    return shipments.import_(shipment, TransportKey(TRANSPORT), OFFICER, **options)  # type: ignore[arg-type]


def refused(folder: Path, *lines: Any, **options: bool) -> list[tuple[int, str]]:
    """What is said of bad lines; and it must have changed nothing."""
    before = rows()
    report = take(folder, *lines, **options)
    assert report.bad
    assert rows() == before
    return [(number, reason) for number, reason in report.bad]


def rows() -> list[object]:
    return [list(model.objects.order_by("pk").values()) for model in (DeviceKey, InvocationCounter, AuditRecord)]


def states(title: bytes = TITLE) -> dict[int, str]:
    return dict(DeviceKey.objects.filter(system_title=title).values_list("epoch", "state"))


def schemes() -> dict[tuple[bytes, int], tuple[str, int]]:
    rows = DeviceKey.objects.values_list("system_title", "epoch", "scheme", "algorithm")
    return {(bytes(title), epoch): (scheme, algorithm) for title, epoch, scheme, algorithm in rows}


def octets_of(title: bytes, epoch: int) -> bytes:
    (key,) = open_keys([DeviceKey.objects.get(system_title=title, epoch=epoch).pk])
    return key.octets


class TestImport:
    def test_first_keys_become_active(self, tmp_path: Path) -> None:
        report = take(
            tmp_path,
            line(TITLE, key=KEY, transfer_key=TRANSFER_KEY, algorithm="AES-CCM-16-64-256"),
            line(OTHER, epoch=7, transfer_key=b""),
        )
        assert (report.active, report.transfer_keys, report.without_transfer_key, report.bad) == (2, 1, 1, [])
        assert states() == {0: "active", 1: "active"}
        assert states(OTHER) == {7: "active"}
        assert (octets_of(TITLE, 1), octets_of(TITLE, 0)) == (KEY, TRANSFER_KEY)
        assert set(DeviceKey.objects.filter(system_title=TITLE).values_list("algorithm", flat=True)) == {11}
        assert InvocationCounter.objects.count() == 3

    def test_again_changes_nothing(self, tmp_path: Path) -> None:
        lines = [line(TITLE), line(OTHER)]
        take(tmp_path, *lines)
        before = rows()[:2]
        report = take(tmp_path, *lines)
        assert (report.active, report.unchanged) == (0, 4)
        assert rows()[:2] == before

    def test_an_old_row_without_a_fingerprint_is_compared_by_its_key(self, tmp_path: Path) -> None:
        lines = [line(TITLE)]
        take(tmp_path, *lines)
        DeviceKey.objects.update(fingerprint=None)
        assert take(tmp_path, *lines).unchanged == 2
        assert "mismatch" in refused(tmp_path, line(TITLE, transfer_key=b""))[0][1]

    def test_a_key_beside_an_active_one_is_pending_and_stays(self, tmp_path: Path) -> None:
        take(tmp_path, line(TITLE))
        report = take(tmp_path, line(TITLE, 2, transfer_key=b""))
        assert (report.pending, report.without_transfer_key) == (1, 0)
        assert states() == {0: "active", 1: "active", 2: "pending"}
        assert epochs.cancel([TITLE]) == set()
        assert refused(tmp_path, line(TITLE, 3, transfer_key=b"")) == [
            (2, "epoch 2 is pending: the device is being given that key")
        ]

    def test_what_stands_otherwise_is_a_mismatch(self, tmp_path: Path) -> None:
        take(tmp_path, line(TITLE, 2, KEY, TRANSFER_KEY), line(OTHER))
        standing = DeviceKey.objects.get(system_title=TITLE, epoch=2)
        said = refused(
            tmp_path,
            line(TITLE, 2, transfer_key=b""),
            line(OTHER, 1, transfer_key=THIRD),
        )
        assert [number for number, _ in said] == [2, 3, 3]
        assert f"mismatch: the key {bytes(standing.fingerprint or b'').hex()} stands" in said[0][1]
        assert any("--replace-transfer-key" in reason for _, reason in said)
        assert refused(tmp_path, line(TITLE, 2, KEY, TRANSFER_KEY, algorithm="AES-CCM-16-64-256")) == [
            (2, "mismatch: the key of epoch 2 is for AES-CCM-16-64-128"),
            (
                2,
                (
                    "mismatch: the same transfer key stands for AES-CCM-16-64-128, the shipment says AES-CCM-16-64-256 "
                    "(--replace-transfer-key puts that in)"
                ),
            ),
        ]
        assert refused(tmp_path, line(TITLE, 1, transfer_key=b"")) == [
            (2, "epoch 1 comes before epoch 2, which the device has")
        ]

    def test_the_same_transfer_key_for_another_algorithm_is_a_mismatch(self, tmp_path: Path) -> None:
        take(tmp_path, line(TITLE, 1, KEY, TRANSFER_KEY))
        other = {**transfer_line(TITLE, TRANSFER_KEY), "algorithm": "AES-CCM-16-64-256"}
        assert refused(tmp_path, other) == [
            (
                2,
                (
                    "mismatch: the same transfer key stands for AES-CCM-16-64-128, the shipment says AES-CCM-16-64-256 "
                    "(--replace-transfer-key puts that in)"
                ),
            )
        ]
        assert take(tmp_path, other, replace_transfer_keys=True).replaced == 1
        assert DeviceKey.objects.get(system_title=TITLE, epoch=0).algorithm == 11
        both = line(TITLE, 1, KEY, TRANSFER_KEY, algorithm="AES-CCM-16-64-128", transfer_algorithm="AES-CCM-16-64-256")
        assert take(tmp_path, both).unchanged == 2

    def test_a_key_that_frames_are_sealed_with_names_the_agreement_key(self, tmp_path: Path) -> None:
        with SCHEMES.including(SCHEMES["ccm"]._replace(name="sealed", number=4, envelope="sealed")):
            with pytest.raises(ShipmentError, match="there is no agreement key"):
                take(tmp_path, line(TITLE, scheme="sealed"))
            assert states() == {}
            key = agreement_key(X25519PrivateKey.generate())
            assert take(tmp_path, line(TITLE, scheme="sealed")).active == 1
        rows = DeviceKey.objects.order_by("epoch").values_list("scheme", "algorithm", "agreement_key")
        assert list(rows) == [("ccm", 10, None), ("sealed", -65537, key.pk)]

    def test_with_several_agreement_keys_one_is_named(self, tmp_path: Path) -> None:
        agreement_key(X25519PrivateKey.generate())
        second = agreement_key(X25519PrivateKey.generate(), "hes-2")
        with pytest.raises(
            ShipmentError, match="several agreement keys, hes-1 and hes-2 among them, and none is named"
        ):
            take(tmp_path, line(TITLE, scheme="sealed"))
        assert take(tmp_path, line(TITLE, scheme="sealed"), agreement_key="hes-2").active == 1
        assert DeviceKey.objects.get(epoch=1).agreement_key == second

    def test_public_keys_are_agreed_with(self, tmp_path: Path) -> None:
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        agreed = {"system_title": TITLE.hex(), "public_key": public.hex(), "scheme": "session"}
        with pytest.raises(ShipmentError, match="there is no agreement key"):
            take(tmp_path, agreed)
        agreement_key(head_end := X25519PrivateKey.generate())
        agreement_key(X25519PrivateKey.generate(), "hes-2")
        with pytest.raises(ShipmentError, match="none is named"):
            take(tmp_path, agreed, dry_run=True)
        report = take(tmp_path, agreed, line(OTHER), agreement_key="hes-1")
        assert (report.agreed, report.active, report.transfer_keys, report.bad) == (1, 1, 1, [])
        assert states() == {0: "active", 1: "active"}
        assert schemes()[TITLE, 1] == ("session", 10)
        z = agree(private, head_end.public_key().public_bytes_raw())
        for epoch in (0, 1):
            theirs = agreed_device_key(z, TITLE, epoch, public, head_end.public_key().public_bytes_raw())
            assert octets_of(TITLE, epoch) == theirs
        assert take(tmp_path, agreed).unchanged == 1
        record = AuditRecord.objects.order_by("-number")[1]
        assert (record.act, record.subject["agreed"]) == ("keys.import", 1)

    def test_public_keys_that_are_refused(self, tmp_path: Path) -> None:
        head_end = X25519PrivateKey.generate()
        agreement_key(head_end)
        publics = [X25519PrivateKey.generate().public_key().public_bytes_raw().hex() for _ in range(3)]

        def agreed(title: bytes, public: str, **more: Any) -> dict[str, Any]:
            return {"system_title": title.hex(), "public_key": public, **more}

        take(tmp_path, agreed(TITLE, publics[0]), line(OTHER))
        third = bytes.fromhex("0024befffe00a003")
        for wrong, says in (
            (agreed(third, publics[0]), f"its public key is that of {TITLE.hex()}"),
            (agreed(third, head_end.public_key().public_bytes_raw().hex()), "is the head-end's own"),
            (agreed(OTHER, publics[1]), "the meter has other keys"),
            (agreed(TITLE, publics[1]), "the meter has other keys"),
            (agreed(TITLE, publics[0], scheme="session"), "the key of epoch 1 is of scheme ccm"),
            (agreed(TITLE, publics[0], algorithm="AES-CCM-16-64-256"), "the key of epoch 1 is for AES-CCM-16-64-128"),
            (agreed(third, "00" * 32), "small order"),
            (agreed(third, "zz"), "public_key is not 64 hex digits"),
            (agreed(third, publics[1], epoch=1), "epoch stands beside public_key"),
            (agreed(third, publics[1], key=wrapped(KEY)), "key stands beside public_key"),
            (agreed(third, publics[1], scheme="concentrator"), "is not one of"),
            (agreed(third, publics[1], scheme="mac", algorithm="AES-CCM-16-64-128"), "algorithm is not one of"),
        ):
            ((number, reason),) = refused(tmp_path, wrong)
            assert number == 2
            assert says in reason
        fourth = bytes.fromhex("0024befffe00a004")
        assert refused(tmp_path, agreed(third, publics[2]), agreed(fourth, publics[2])) == [
            (3, "public_key is the same as that of line 2")
        ]

    def test_a_shipment_with_public_keys_takes_its_digest(self, tmp_path: Path) -> None:
        agreement_key(X25519PrivateKey.generate())
        public = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
        shipment = shipment_file(tmp_path, [{"system_title": TITLE.hex(), "public_key": public}])
        words = ["import_keys", str(shipment), "--transport-key", str(transport_file(tmp_path))]
        with pytest.raises(CommandError, match="which no transport key protects"):
            call_command(*words)
        out = StringIO()
        call_command(*words, "--sha256", hashlib.sha256(shipment.read_bytes()).hexdigest(), stdout=out)
        assert "1 meter agreed with" in out.getvalue()
        assert states() == {0: "active", 1: "active"}

    def test_a_scheme_is_said_with_its_algorithm(self, tmp_path: Path) -> None:
        with toys():
            keyed = line(TITLE, scheme="toy", algorithm="toy 9", transfer_algorithm="AES-CCM-16-64-256")
            assert take(tmp_path, keyed, line(OTHER, scheme="ccm + toy", algorithm="AES-CCM-16-64-256")).bad == []
            assert schemes() == {
                (TITLE, 0): ("ccm", 11), (TITLE, 1): ("toy", 9), (OTHER, 0): ("ccm", 11), (OTHER, 1): ("ccm + toy", 11),
            }  # fmt: skip
            assert take(tmp_path, {**keyed, "scheme": "toy title"}).bad == [
                (2, "mismatch: the key of epoch 1 is of scheme toy")
            ]
            assert take(tmp_path, keyed).unchanged == 2
            assert take(tmp_path, line(bytes(7) + b"1", scheme="ccm", algorithm="toy 9")).bad == [
                (2, "algorithm is not one of 'AES-CCM-16-64-128', 'AES-CCM-16-64-256'")
            ]
            bare = {"system_title": TITLE.hex(), "transfer_key": keyed["transfer_key"], "scheme": "toy"}
            assert take(tmp_path, bare).bad == [(2, "scheme stands without key")]

    @pytest.mark.parametrize(("epoch", "at_last"), [(65534, 0), (65535, 1)])
    def test_the_last_epoch_is_told_of(self, tmp_path: Path, epoch: int, at_last: int) -> None:
        report = take(tmp_path, line(TITLE, epoch))
        assert (report.active, report.at_last_epoch) == (1, at_last)

    def test_a_compromised_key_never_comes_back(self, tmp_path: Path) -> None:
        lines = [line(TITLE, 1, KEY, TRANSFER_KEY)]
        take(tmp_path, *lines)
        set_key_state(list(DeviceKey.objects.values_list("pk", flat=True)), KeyState.COMPROMISED)
        assert refused(tmp_path, *lines, replace_transfer_keys=True) == [
            (2, "epoch 1 is compromised: it never comes back"),
            (2, "the transfer key is compromised: it never comes back"),
        ]
        report = take(tmp_path, line(TITLE, 2, transfer_key=THIRD), replace_transfer_keys=True)
        assert (report.active, report.replaced) == (1, 1)
        assert states() == {0: "active", 1: "compromised", 2: "active"}

    def test_a_transfer_key_is_replaced(self, tmp_path: Path) -> None:
        provision_devices([TITLE], 11, create_fleet_key("fleet", secrets.token_bytes(32)))
        provision_devices([OTHER])
        assert "mismatch" in refused(tmp_path, transfer_line(TITLE, TRANSFER_KEY))[0][1]
        lines = [transfer_line(OTHER, THIRD), transfer_line(TITLE, TRANSFER_KEY)]
        assert take(tmp_path, *lines, replace_transfer_keys=True).replaced == 2
        assert (octets_of(TITLE, 0), octets_of(OTHER, 0)) == (TRANSFER_KEY, THIRD)
        row = DeviceKey.objects.select_related("counter").get(system_title=TITLE, epoch=0)
        assert (row.source, row.algorithm, row.version, row.counter.key_version) == ("stored", 11, 2, 2)
        assert take(tmp_path, *lines).unchanged == 2

    def test_a_transfer_key_that_moved_meanwhile_stops_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provision_devices([TITLE])
        key = DeviceKey.objects.get(epoch=0)

        def move_then_store(*args: Any) -> None:
            set_key_state([key.pk], KeyState.COMPROMISED)
            store(*args)

        store = shipments._store
        monkeypatch.setattr(shipments, "_store", move_then_store)
        with pytest.raises(ShipmentError, match="changed by someone else meanwhile"):
            take(tmp_path, line(OTHER), transfer_line(TITLE, TRANSFER_KEY), replace_transfer_keys=True)
        assert not DeviceKey.objects.filter(system_title=OTHER).exists()

    def test_keys_made_meanwhile_stop_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_rows, "_check", lambda rows: None)
        monkeypatch.setattr(shipments, "_standing", lambda titles: {})
        provision_stored([NewKey(TITLE, 1)])
        before = rows()
        with pytest.raises(DatabaseError):
            take(tmp_path, line(OTHER), line(TITLE))
        assert rows() == before

    def test_unfit_keys_are_named_and_not_shown(self, tmp_path: Path) -> None:
        provision_stored([NewKey(bytes(8), 1, THIRD)])
        said = refused(
            tmp_path,
            line(b"a" * 8, key=KEY, transfer_key=KEY),
            line(b"b" * 8, key=KEY, transfer_key=b""),
            line(b"c" * 8, key=b"c" * 32),
            line(b"d" * 8, key=TRANSPORT),
            line(b"e" * 8, key=THIRD),
            line(TITLE, key=TITLE + secrets.token_bytes(24)),
            {**line(b"g" * 8), "key": wrapped(KEY, secrets.token_bytes(32))},
        )
        assert said == [
            (2, "transfer_key is the same as one of line 2"),
            (3, "key is the same as one of line 2"),
            (4, "key is one octet repeated"),
            (5, "key is the transport key"),
            (6, "key of 6565656565656565, epoch 1 is that of device 0000000000000000, too"),
            (7, "key holds the system title"),
            (8, "key: it does not open under the transport key: it was changed, or wrapped under another"),
        ]
        assert not any(KEY.hex() in reason or THIRD.hex() in reason for _, reason in said)

    def test_a_wrong_transport_key_is_one_sentence(self, tmp_path: Path) -> None:
        foreign = secrets.token_bytes(32)
        shipment = shipmentfile.read(shipment_file(tmp_path, [line(TITLE)]))
        with pytest.raises(ShipmentError, match="wrong transport key: the shipment is wrapped under"):
            shipments.import_(shipment, TransportKey(foreign), OFFICER)
        lying = header(2, transport_key=TransportKey(foreign).fingerprint.hex())
        shipment = shipmentfile.read(shipment_file(tmp_path, [line(TITLE), line(OTHER)], lying))
        with pytest.raises(ShipmentError, match="no key of the shipment opens"):
            shipments.import_(shipment, TransportKey(foreign), OFFICER)
        assert not DeviceKey.objects.exists()

    def test_a_dry_run_changes_nothing(self, tmp_path: Path) -> None:
        before = rows()
        report = take(tmp_path, line(TITLE), line(OTHER), dry_run=True)
        assert (report.active, report.transfer_keys) == (2, 2)
        assert rows() == before

    def test_it_is_one_audit_record(self, tmp_path: Path) -> None:
        path = shipment_file(tmp_path, [line(TITLE), line(OTHER)])
        shipment = shipmentfile.read(path)
        shipments.import_(shipment, TransportKey(TRANSPORT), OFFICER)
        record = AuditRecord.objects.get()
        assert (record.actor, record.act) == ("officer", "keys.import")
        chain.verify()
        named = record.subject.pop("named")
        rows = DeviceKey.objects.values_list("system_title", "epoch", "fingerprint")
        assert sorted((key["device"], key["epoch"], key["fingerprint"]) for key in named) == sorted(
            (bytes(title).hex(), epoch, bytes(name or b"").hex()) for title, epoch, name in rows
        )
        assert record.subject == {
            "shipment": "S-1",
            "transport_key": TransportKey(TRANSPORT).fingerprint.hex(),
            "sha256": shipment.sha256.hex(),
            "active": 2, "pending": 0, "transfer_keys": 2,
            "agreed": 0, "replaced": 0, "unchanged": 0,
        }  # fmt: skip

    def test_without_an_audit_record_nothing_is_stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> None:
            raise chain.AuditError("the audit key does not open")

        monkeypatch.setattr(chain, "record", broken)
        with pytest.raises(chain.AuditError):
            take(tmp_path, line(TITLE))
        assert not DeviceKey.objects.exists()

    def test_many_lines_are_quick(self, tmp_path: Path) -> None:
        """20,000 keys in well under twelve seconds, as 100,000 in a minute; a bare loop takes about one."""
        lines = [line((n + 1).to_bytes(8, "big")) for n in range(10_000)]
        shipment = shipment_file(tmp_path, lines)
        begun = time.perf_counter()
        report = shipments.import_(shipmentfile.read(shipment), TransportKey(TRANSPORT), OFFICER)
        assert time.perf_counter() - begun < 12
        assert (report.active, report.transfer_keys) == (10_000, 10_000)


class TestExport:
    @pytest.fixture
    def key_file(self, tmp_path: Path) -> Path:
        return transport_file(tmp_path)

    def run(self, key_file: Path, output: Path, *words: str) -> str:
        out = StringIO()
        call_command(
            "export_keys", *words, "--transport-key", str(key_file), "--output", str(output), "--shipment", "S-9",
            stdout=out,
        )  # fmt: skip
        return out.getvalue()

    def import_elsewhere(self, path: Path) -> ShipmentReport:
        """Take a shipment into a vault that has forgotten every key."""
        InvocationCounter.objects.all().delete()
        DeviceKey.objects.all().delete()
        return shipments.import_(shipmentfile.read(path), TransportKey(TRANSPORT), OFFICER)

    @pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
    def test_what_is_exported_can_be_imported(self, key_file: Path, tmp_path: Path, name: str) -> None:
        provision_devices([TITLE], 11, create_fleet_key("fleet", secrets.token_bytes(32)))
        provision_stored([NewKey(OTHER, 3, KEY)])
        provision_devices([b"not asked"[:8]])
        derived = octets_of(TITLE, 1), octets_of(TITLE, 0)
        titles = tmp_path / "titles"
        titles.write_text(f"{TITLE.hex()}\n{OTHER.hex().upper()}\n{TITLE.hex()}\n")
        output = tmp_path / name
        said = self.run(key_file, output, "--meters-from", str(titles))
        assert "Exported 2 keys and 1 transfer key " in said
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        assert (output.read_bytes()[:2] == b"\x1f\x8b") is name.endswith(".gz")
        record = AuditRecord.objects.get()
        sha256 = shipmentfile.read(output).sha256.hex()
        assert (record.act, record.subject["sha256"], record.subject["file"]) == ("keys.export", sha256, name)
        assert record.subject["devices"] == [TITLE.hex(), OTHER.hex()]
        assert sha256 in said
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "titles", "transport.key"])

        report = self.import_elsewhere(output)
        assert (report.active, report.transfer_keys) == (2, 1)
        assert (octets_of(TITLE, 1), octets_of(TITLE, 0)) == derived
        assert octets_of(OTHER, 3) == KEY
        assert set(DeviceKey.objects.values_list("system_title", "algorithm")) == {(TITLE, 11), (OTHER, 10)}

    def test_no_file_is_overwritten_and_none_is_left_half(
        self, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provision_devices([TITLE])
        output = tmp_path / "out"
        output.write_text("precious")
        for path in (output, Path("/dev/stdout"), tmp_path):
            with pytest.raises(CommandError, match="exists already and is left as it is"):
                self.run(key_file, path, "--meters", TITLE.hex())
        with pytest.raises(CommandError, match="cannot write"):
            self.run(key_file, tmp_path / "none" / "out", "--meters", TITLE.hex())
        assert output.read_text() == "precious"

        def broken(*_: Any) -> None:
            raise chain.AuditError("the audit key does not open")

        monkeypatch.setattr(chain, "record", broken)
        with pytest.raises(CommandError, match="Nothing was exported"):
            self.run(key_file, tmp_path / "new", "--meters", TITLE.hex())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "transport.key"]
        assert not AuditRecord.objects.exists()

    def test_a_meter_without_an_active_key_stops_all(self, key_file: Path, tmp_path: Path) -> None:
        provision_devices([TITLE, OTHER])
        set_key_state([DeviceKey.objects.get(system_title=OTHER, epoch=1).pk], KeyState.COMPROMISED)
        with pytest.raises(CommandError, match=f"no active key for {OTHER.hex()}. Nothing was exported"):
            self.run(key_file, tmp_path / "out", "--meters", TITLE.hex(), OTHER.hex())
        with pytest.raises(CommandError, match="is not 16 hex digits"):
            self.run(key_file, tmp_path / "out", "--meters", "0024")
        with pytest.raises(ShipmentError, match="a shipment's name has"):
            key_export.export([TITLE], TransportKey(TRANSPORT), tmp_path / "out", "../x", OFFICER)
        assert not (tmp_path / "out").exists()

    def test_a_row_that_was_changed_stops_all(self, tmp_path: Path) -> None:
        provision_devices([TITLE, OTHER])
        row = DeviceKey.objects.get(system_title=TITLE, epoch=1)
        DeviceKey.objects.filter(pk=row.pk).update(wrapped=DeviceKey.objects.get(system_title=OTHER, epoch=1).wrapped)
        with pytest.raises(ShipmentError, match="do not open"):
            key_export.export([TITLE, OTHER], TransportKey(TRANSPORT), tmp_path / "out", "S", OFFICER)
        assert list(tmp_path.iterdir()) == []

    def test_schemes_go_along(self, tmp_path: Path) -> None:
        output = tmp_path / "out"
        with toys():
            provision_devices([TITLE], 9, scheme="toy")
            provision_devices([OTHER])
            before = schemes()
            key_export.export([TITLE, OTHER], TransportKey(TRANSPORT), output, "S", OFFICER)
            assert output.read_text().count("scheme") == 1  # what knows no schemes can read the line of the other
            assert self.import_elsewhere(output).active == 2
        assert schemes() == before == {(TITLE, 0): ("ccm", 10), (TITLE, 1): ("toy", 9), (OTHER, 0): ("ccm", 10),
                                       (OTHER, 1): ("ccm", 10)}  # fmt: skip


def test_compressed_bombs_end_at_the_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(
        gzip.compress(shipmentfile.encode_header(shipmentfile.ShipmentHeader("S", bytes(8), 3)) + b"\n" * 10**7)
    )
    with pytest.raises(ShipmentError, match="more lines follow"):
        shipmentfile.read(path)
