import gzip
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from concentrators.commands import capture_period
from concentrators.models import Assignment
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.provisioning import create_fleet_key, provision_devices
from keyvault.models import AuditRecord, DeviceKey, InvocationCounter
from keyvault.schemes.table import SCHEMES
from meters.models import Installation, Meter, MeterStatus, Place
from meters.registry.interval_lengths import common_boundary
from meters.registry.lifecycle import retire
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.toy_schemes import toys

pytestmark = pytest.mark.django_db
HEADER = "system_title,serial_number,name,place,interval_minutes,algorithm,status,commissioned_at,concentrator"
FULL = "0024BEFFFE000001,S1,Mill lane 4,house 1,15,AES-CCM-16-64-256,suspended,2026-03-01,DCU 1"
BARE = "0024befffe000002,S2,,,,,,,"


@pytest.fixture(autouse=True)
def concentrator() -> None:
    ConcentratorFactory.create(name="DCU 1")
    ConcentratorFactory.create(name="DCU 2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meters.csv"


def run(path: Path, lines: Iterable[str] | bytes, *options: str) -> str:
    path.write_bytes(lines if isinstance(lines, bytes) else "\r\n".join(lines).encode())
    out = StringIO()
    call_command("import_meters", str(path), *options, stdout=out)
    return out.getvalue()


def refused(path: Path, capsys: pytest.CaptureFixture[str], lines: Iterable[str] | bytes, *options: str) -> str:
    """What the command says where it refuses; and it must have changed nothing."""
    before = rows()
    with pytest.raises(CommandError, match=r"[Nn]othing was imported") as error:
        run(path, lines, *options)
    assert rows() == before
    return capsys.readouterr().err + str(error.value)


def rows() -> list[object]:
    models = (Meter, Installation, Assignment, DeviceKey, InvocationCounter)
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_a_meter_gets_and_changes_its_mask_group(path: Path) -> None:
    header = "system_title,serial_number,mask_group,scheme"
    run(path, [header, "0024befffe000001,S1,north,ccm + masked", "0024befffe000002,S2,,"])
    assert list(Meter.objects.order_by("serial_number").values_list("mask_group", flat=True)) == ["north", ""]
    run(path, [header, "0024befffe000001,S1,south,", "0024befffe000002,S2,,"], "--update")
    assert list(Meter.objects.order_by("serial_number").values_list("mask_group", flat=True)) == ["south", ""]


def test_a_mask_group_that_is_too_long_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(path, capsys, ["system_title,serial_number,mask_group", f"0024befffe000001,S1,{'n' * 61}"])
    assert "mask_group is longer than 60 characters" in said


def test_a_new_meter_gets_its_place_keys_and_concentrator(path: Path) -> None:
    assert run(path, [HEADER, FULL, BARE]).startswith("Imported: 2 new, 0 changed, 0 unchanged; 1 assigned")

    full, bare = Meter.objects.order_by("serial_number")
    start = datetime(2026, 3, 1, tzinfo=UTC)
    assert (bytes(full.system_title), full.name, full.interval_minutes, full.status, full.commissioned_at) == (
        bytes.fromhex("0024befffe000001"), "Mill lane 4", 15, MeterStatus.SUSPENDED, start,
    )  # fmt: skip
    assert (bare.name, bare.interval_minutes, bare.status) == ("", 30, MeterStatus.COMMISSIONED)
    assert Installation.objects.get().place.name == "house 1"
    assert Installation.objects.get().installed_at == start
    assert Assignment.objects.get().concentrator.name == "DCU 1"
    assert (Assignment.objects.get().meter, Assignment.objects.get().valid_from) == (full, start)
    keys = DeviceKey.objects.order_by("system_title", "epoch").values_list("epoch", "algorithm", "source", "state")
    assert list(keys) == [(epoch, alg, "stored", "active") for alg in (11, 10) for epoch in (0, 1)]
    assert InvocationCounter.objects.count() == 4


def test_the_same_file_again_changes_nothing(path: Path) -> None:
    run(path, [HEADER, FULL, BARE])
    before = rows()
    assert "0 new, 0 changed, 2 unchanged; 0 assigned" in run(path, [HEADER, FULL, BARE])
    assert "0 new, 0 changed, 2 unchanged; 0 assigned" in run(path, [HEADER, FULL, BARE], "--update")
    assert rows() == before


def test_update_changes_what_may_change(path: Path) -> None:
    run(path, [HEADER, FULL, BARE])
    moved = "0024befffe000001,S1,Mill lane 6,house 2,30,,commissioned,,DCU 2"
    assert "0 new, 1 changed, 1 unchanged; 1 assigned" in run(path, [HEADER, moved, BARE], "--update")

    meter = Meter.objects.get(serial_number="S1")
    assert (meter.name, meter.interval_minutes, meter.status) == ("Mill lane 6", 30, MeterStatus.COMMISSIONED)
    hung = Installation.objects.order_by("installed_at")
    assert [row.place.name for row in hung] == ["house 1", "house 2"]
    assert hung[0].removed_at == hung[1].installed_at
    assigned = Assignment.objects.order_by("valid_from")
    assert [row.concentrator.name for row in assigned] == ["DCU 1", "DCU 2"]
    assert assigned[0].valid_to == assigned[1].valid_from


def before_audit(statements: Iterable[str]) -> list[str]:
    return list(itertools.takewhile(lambda statement: not statement.startswith("WITH journal AS"), statements))


def test_an_update_locks_in_the_order_of_an_assignment(path: Path) -> None:
    """Groups, totals, then the registry's generation: in another order the two would lock each other out."""
    with counting() as statements:
        run(path, [HEADER, FULL], "--no-keys")
    assert not [statement for statement in before_audit(statements) if "pg_advisory_xact_lock" in statement]
    with counting() as statements:
        run(path, [HEADER, FULL.replace("Mill lane 4", "x").replace("DCU 1", "DCU 2")], "--update")
    taken = [
        statement.split()[0]
        for statement in before_audit(statements)
        if "pg_advisory_xact_lock" in statement or statement.startswith("UPDATE meters_meter")
    ]
    assert taken == ["SELECT", "SELECT", "UPDATE", "SELECT"]


def test_a_length_that_cannot_be_entered_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, [HEADER, FULL])
    now = timezone.now()
    capture_period.change_by_hand(Meter.objects.get(), 30, common_boundary(now + timedelta(days=9), 15, 30), now)
    assert "the length of meter S1 changes at" in refused(path, capsys, [HEADER, FULL], "--update")


def test_without_update_each_difference_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, [HEADER, FULL, BARE])
    lines = [HEADER, FULL.replace("Mill lane 4", "x").replace("house 1", "house 2"), BARE[:-1] + ",DCU 2"]
    said = refused(path, capsys, lines)
    assert "line 2: meter S1 is registered with another name, place" in said
    assert "line 3: meter S2 is registered with another concentrator" in said


def test_a_dry_run_changes_nothing(path: Path) -> None:
    before = rows()
    assert run(path, [HEADER, FULL], "--dry-run").startswith("Would import: 1 new")
    assert rows() == before


BAD_LINES = [
    ("0024befffe00000,S,,,,,,,", "system title '0024befffe00000' is not 16 hex digits"),
    (",S,,,,,,,", "system_title is empty"),
    ("0024befffe000003,,,,,,,,", "serial_number is empty"),
    ("0024befffe000003,S", "2 cells, but the header names 9 columns"),
    ("0024befffe000003,S,,,0,,,,", "interval_minutes '0' is not a whole number from 1 to 1440"),
    ("0024befffe000003,S,,,1441,,,,", "interval_minutes '1441'"),
    ("0024befffe000003,S,,,,DES,,,", "algorithm 'DES' is not one of 'AES-CCM-16-64-128', 'AES-CCM-16-64-256'"),
    ("0024befffe000003,S,,,,,retired,,", "status 'retired' is not one of commissioned, suspended"),
    ("0024befffe000003,S,,,,,,2026-02-30,", "commissioned_at '2026-02-30' is not a date"),
    ("0024befffe000003,S,,,,,,2026-03-01T00:00:00,", "with a zone"),
    ("0024befffe000003,S,,,,,,,DCU 3", "there is no concentrator DCU 3"),
    (f"0024befffe000003,{'S' * 65},,,,,,,", "serial_number is longer than 64 characters"),
    ("0024befffe000003,S\0,,,,,,,", "serial_number 'S\\x00': it holds a character that cannot be shown (U+0000)"),
    ("0024befffe000002,S9,,,,,,,", "system_title 0024befffe000002 is already in line 2"),
    ("0024befffe000003,S2,,,,,,,", "serial_number S2 is already in line 2"),
    ("0024befffe0000aa,S9,,,,,,,", "is registered with serial number standing"),
    ("0024befffe000003,standing,,,,,,,", "serial number standing is registered with system title 0024befffe0000aa"),
    ("0024befffe0000bb,gone,,,,,,,", "meter gone is retired"),
    ("0024befffe0000cc,elsewhere,,,,,commissioned,,", "meter elsewhere was moved to another cell"),
    ("0024befffe000003,S3,,taken,,,,,", "place taken has meter standing"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_imported(
    path: Path, capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    standing = MeterFactory.create(
        system_title=bytes.fromhex("0024befffe0000aa"), serial_number="standing", commissioned_at=start
    )
    gone = MeterFactory.create(
        system_title=bytes.fromhex("0024befffe0000bb"), serial_number="gone", commissioned_at=start
    )
    retire(gone, datetime(2026, 2, 1, tzinfo=UTC))
    MeterFactory.create(
        system_title=bytes.fromhex("0024befffe0000cc"), serial_number="elsewhere", status=MeterStatus.MOVED
    )
    run(path, ["system_title,serial_number,place", "0024befffe0000aa,standing,taken"], "--update")
    assert Installation.objects.get().meter == standing

    said = refused(path, capsys, [HEADER, BARE, line])
    assert "line 3: " in said
    assert reason in said


BAD_FILES = [
    (b"", "line 1: column system_title is missing"),
    (b"serial_number,name\nS1,x", "line 1: column system_title is missing. The first line names the columns"),
    (b"system_title|serial_number\n0024befffe000001|S1", "separated by commas, semicolons or tabs"),
    (b"system_title,serial_number,key\n0024befffe000001,S1,00", "It holds 'system_title,serial_number,key'"),
    ("system_title,serial_number\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    (b'system_title,serial_number\n0024befffe000001,"S1\n', "not CSV"),
    (gzip.compress(HEADER.encode(), mtime=0)[:-4], "is cut off or damaged"),
    (b"\x1f\x8bno gzip", "is cut off or damaged"),
]


@pytest.mark.parametrize(("content", "reason"), BAD_FILES)
def test_a_bad_file_is_refused(path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str) -> None:
    assert reason in refused(path, capsys, content)


def test_octets_of_another_encoding_are_named_by_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = f"{HEADER}\n{BARE}\n0024befffe000003,S3,Mühle,,,,,,".encode("latin-1")
    assert "line 3: name holds octets that are not UTF-8 text" in refused(path, capsys, lines)


def test_bom_gzip_and_names_beyond_ascii(path: Path) -> None:
    run(path, gzip.compress(f"{HEADER}\n0024befffe000003,S3,Mühle,,,,,,\n\n".encode("utf-8-sig")))
    assert Meter.objects.get().name == "Mühle"


def test_only_the_first_bad_lines_are_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(path, capsys, [HEADER, *["x,S,,,,,,,"] * 60])
    assert said.count("is not 16 hex digits") == 50
    assert "and 10 more" in said
    assert "60 bad lines" in said


def test_keys_from_a_fleet_key_from_a_shipment_and_kept_ones(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_fleet_key("2026")
    provision_devices([bytes.fromhex("0024befffe000002")])
    kept = list(DeviceKey.objects.values())
    assert "0 given keys" in run(path, [HEADER, BARE])
    assert list(DeviceKey.objects.values()) == kept

    assert "0 given keys" in run(path, [HEADER, "0024befffe000003,S3,,,,,,,"], "--no-keys")
    assert "1 given key;" in run(path, [HEADER, FULL], "--fleet-key", "2026")
    assert set(DeviceKey.objects.filter(algorithm=11).values_list("source", "fleet_key__name")) == {("derived", "2026")}
    assert "there is no fleet key 2027" in refused(path, capsys, [HEADER, BARE], "--fleet-key", "2027")


def test_an_algorithm_changes_with_the_key_only(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, [HEADER, FULL])
    said = refused(path, capsys, [HEADER, FULL.replace("64-256", "64-128")], "--update")
    assert "line 2: the key of meter S1 is for AES-CCM-16-64-256" in said


def test_without_keys_a_scheme_in_the_file_is_said_to_be_lost(path: Path) -> None:
    header = "system_title,serial_number,scheme"
    said = run(path, [header, "0024befffe000001,S1,mac", "0024befffe000002,S2,ccm"], "--no-keys", "--dry-run")
    assert "1 new meter has a scheme or an algorithm in the file, which --no-keys does not store" in said
    assert "--no-keys" not in run(path, [header, "0024befffe000002,S2,ccm"], "--no-keys")
    assert "--no-keys" not in run(path, [header, "0024befffe000001,S1,mac"])


def test_with_several_agreement_keys_one_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    actor = Actor("officer", "test")
    agreement_keys.init("hes-1", actor)
    second = agreement_keys.init("hes-2", actor)
    lines = ["system_title,serial_number,scheme", "0024befffe000001,S1,sealed"]
    assert "several agreement keys, hes-1 and hes-2 among them, and none is named" in refused(path, capsys, lines)
    assert "no agreement key hes-3" in refused(path, capsys, lines, "--agreement-key", "hes-3")
    assert "1 given key;" in run(path, lines, "--agreement-key", "hes-2")
    assert DeviceKey.objects.get(epoch=1).agreement_key == second


def test_a_scheme_comes_with_the_first_key_and_changes_with_the_key_only(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, lines = (
        "system_title,serial_number,scheme,algorithm",
        ["0024befffe000001,S1,toy,toy 9", "0024befffe000002,S2,,"],
    )
    with toys():
        run(path, [header, *lines])
        keys = DeviceKey.objects.order_by("system_title", "epoch").values_list("epoch", "scheme", "algorithm")
        assert list(keys) == [(0, "ccm", 10), (1, "toy", 9), (0, "ccm", 10), (1, "ccm", 10)]
        assert "0 new" in run(path, [header, *lines])
        said = refused(path, capsys, [header, "0024befffe000002,S2,toy,"], "--update")
        assert "line 2: the key of meter S2 is of scheme ccm: only a new key changes that" in said
        assert "scheme 'mine' is not one of ccm" in refused(path, capsys, [header, "0024befffe000003,S3,mine,"])
        assert "algorithm 'toy 9' is not one of 'AES" in refused(path, capsys, [header, "0024befffe000003,S3,,toy 9"])
        stored = SCHEMES["toy"]._replace(sources=frozenset({"stored"}))
        create_fleet_key("2026")
        with SCHEMES.including(stored):
            said = refused(path, capsys, [header, "0024befffe000003,S3,toy,"], "--fleet-key", "2026")
        assert "no scheme 'toy' takes a derived key" in said


def test_without_a_master_key_nothing_is_imported(
    path: Path, capsys: pytest.CaptureFixture[str], settings: Settings, tmp_path: Path
) -> None:
    settings.MASTER_KEY_FILE = tmp_path / "no.keys"
    assert "master_key init" in refused(path, capsys, [HEADER, BARE])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot read .*No such file"):
        call_command("import_meters", str(tmp_path / "no.csv"))


def test_the_number_of_queries_does_not_grow_with_the_file(path: Path) -> None:
    counted = []
    for first, count in ((500, 1), (0, 2), (100, 200)):  # the first makes the audit key
        lines = [f"{0x0024BEFF00000000 + first + n:016x},Q{first + n},,Q{first + n},,,,," for n in range(count)]
        with CaptureQueriesContext(connection) as queries:
            run(path, [HEADER, *lines])
        counted.append(len(queries))
    assert counted[1] == counted[2]
    imported, record = AuditRecord.objects.order_by("-number")[:2]
    assert (imported.act, imported.subject["new"], len(imported.subject["devices"])) == ("meter.import", 200, 100)
    assert (record.act, record.subject["devices"], len(record.subject["first"])) == ("keys.provision", 200, 100)


FROM_EXCEL = (
    "sep=;\r\nSystem Title;Serial Number;Place;Address;Customer Reference;Latitude;Longitude;;\r\n"
    "00-24-BE-FF-FE-00-00-01;S\u200b1; House 1 ;Mühlweg 4;K-17;52,516275;13,377704;;\r\n"
)


def test_a_table_of_excel_is_taken_with_the_place(path: Path) -> None:
    assert "1 new" in run(path, FROM_EXCEL.encode("utf-16"), "--no-keys")
    meter = Meter.objects.get()
    assert (bytes(meter.system_title).hex(), meter.serial_number) == ("0024befffe000001", "S1")
    place = Place.objects.get()
    assert (place.name, place.address, place.customer_reference) == ("House 1", "Mühlweg 4", "K-17")
    assert (place.latitude, place.longitude) == (Decimal("52.516275"), Decimal("13.377704"))
    assert "1 unchanged" in run(path, FROM_EXCEL.encode("utf-8-sig"), "--no-keys")


def test_another_address_takes_update(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, FROM_EXCEL.encode(), "--no-keys")
    moved = FROM_EXCEL.replace("Mühlweg 4", "Mühlweg 5").replace(";K-17;", ";;")
    said = refused(path, capsys, moved.encode(), "--no-keys")
    assert "meter S1 is registered with another address" in said
    assert "1 changed" in run(path, moved.encode(), "--no-keys", "--update")
    place = Place.objects.get()
    assert (place.address, place.customer_reference) == ("Mühlweg 5", "K-17")  # what is left out stays


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (",Mill Lane 4,,,", "address is of a place, and place is empty"),
        ("P,,,52.5,", "latitude and longitude go together"),
        ("P,,,91,13", "latitude '91' is not a number of degrees from -90 to 90"),
        ("P,,,52.5,east", "longitude 'east' is not a number of degrees from -180 to 180"),
    ],
)
def test_what_is_wrong_with_a_place_is_named(
    path: Path, capsys: pytest.CaptureFixture[str], cells: str, reason: str
) -> None:
    header = "system_title,serial_number,place,address,customer_reference,latitude,longitude"
    assert reason in refused(path, capsys, [header, f"0024befffe000001,S1,{cells}"])


def test_serial_numbers_that_look_alike_are_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "system_title,serial_number"
    said = refused(path, capsys, [header, "0024befffe000001,SN1", "0024befffe000002,sn\u200b1"])
    assert "line 3: serial_number sn1 is already in line 2" in said
    run(path, [header, "0024befffe000001,SN1"], "--no-keys")
    said = refused(path, capsys, [header, "0024befffe000002,sn1"])
    assert "serial number sn1 is registered with system title 0024befffe000001" in said
    assert "1 unchanged" in run(path, [header, "0024befffe000001,sn1 "], "--no-keys")
