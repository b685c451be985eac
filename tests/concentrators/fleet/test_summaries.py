"""Commands that look things up: the list of concentrators, and one meter."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from concentrators.fleet import groups, tokens
from concentrators.models import Concentrator
from keyvault.models import DeviceKey
from meters.group_models import FleetGroup
from meters.models import Place
from meters.registry.lifecycle import install
from tests.concentrators import fleet
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    call_command(*words)
    return capsys.readouterr().out


def test_concentrators_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no concentrator" in said(capsys, "concentrator", "list")
    one, other = ConcentratorFactory.create(name="DCU-1"), ConcentratorFactory.create(name="DCU-2", is_active=False)
    devices = fleet.commission(2, one)
    fleet.verified(one, [devices[0].frame(0)])
    tokens.issue(one)
    tokens.issue(one, expires_at=timezone.now() - timedelta(days=1))
    tokens.issue(other)
    lines = said(capsys, "concentrator", "list").splitlines()
    assert lines[0].startswith("DCU-1  active, 2 meters, 1 valid token, posted 20")
    assert lines[1] == "DCU-2  REFUSED (not active), 0 meters, 1 valid token, never posted"
    listed = json.loads(said(capsys, "concentrator", "list", "--json"))
    assert [(row["name"], row["moved_to"]) for row in listed] == [("DCU-1", ""), ("DCU-2", "")]
    Concentrator.objects.filter(pk=other.pk).update(moved_to="b")
    assert "DCU-2  REFUSED (moved to cell b), 0 meters" in said(capsys, "concentrator", "list")


@pytest.mark.parametrize("words", [["list", "DCU-1"], ["add"], ["token"]])
def test_a_name_is_asked_for_where_there_must_be_one(words: list[str]) -> None:
    with pytest.raises(CommandError, match=r"list takes no name|Name the concentrator to"):
        call_command("concentrator", *words)


def test_a_meter_is_looked_up_by_serial_number_or_title(capsys: pytest.CaptureFixture[str]) -> None:
    concentrator = ConcentratorFactory.create(name="DCU-1")
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(0, counter=7)])
    place = Place.objects.create(name="House 1", address="Mill Lane 4", customer_reference="K-17")
    install(device.meter, place, timezone.now() - timedelta(days=1))
    title = "-".join(f"{octet:02X}" for octet in device.title)
    told = json.loads(said(capsys, "meter", title, "--json"))
    assert (told["serial_number"], told["place"], told["address"]) == (str(device.meter), "House 1", "Mill Lane 4")
    assert (told["concentrator"], told["heard_via"]) == ("DCU-1", "DCU-1")
    assert [(key["epoch"], key["state"], key["counter"]) for key in told["keys"]] == [(1, "active", 7)]
    text = said(capsys, "meter", f" {device.meter.serial_number.upper()} ")
    assert "customer reference  K-17" in text
    assert "epoch 1: active, ccm, AES-CCM-16-64-128, stored, counter 7" in text
    (key,) = DeviceKey.objects.all()
    assert bytes(key.wrapped or b"").hex() not in text


def test_a_meter_without_keys_and_none_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    MeterFactory.create(serial_number="S-9")
    text = said(capsys, "meter", "s-9")
    assert "keys                none" in text
    assert "heard at            -" in text
    with pytest.raises(CommandError, match="there is no meter with serial number S-10"):
        call_command("meter", "S-10")


def test_imported_concentrators_come_into_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standing = ConcentratorFactory.create(name="DCU-1")
    table = tmp_path / "new.csv"
    table.write_text("name,groups,tags\ndcu-1,district:North|feeder:7,\nDCU-2,district:North,new\nDCU-3,,\n")
    said(capsys, "concentrator", "import", str(table), "--dry-run")
    assert not FleetGroup.objects.exists()
    done = said(capsys, "concentrator", "import", str(table))
    assert done == "Registered 2 concentrators; 1 is registered already; new in groups: 4 memberships.\n"
    assert {str(group) for group in groups.of_concentrator(standing.pk)} == {"district:North", "feeder:7"}
    assert {str(group) for group in groups.of_concentrator(Concentrator.objects.get(name="DCU-2").pk)} == {
        "district:North",
        "new",
    }
    assert "3 are registered already.\n" in said(capsys, "concentrator", "import", str(table))
    table.write_text("name,groups\nDCU-4,district:\n")
    with pytest.raises(CommandError, match="1 bad line"):
        call_command("concentrator", "import", str(table))
    assert not Concentrator.objects.filter(name="DCU-4").exists()


def test_concentrators_are_imported_all_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConcentratorFactory.create(name="DCU-1")
    table = tmp_path / "new.csv"
    table.write_bytes("sep=;\r\nName;;\r\ndcu-1;;\r\n DCU-2\u200b ;;\r\nDCU-3;;\r\n".encode("utf-16"))
    assert "Would register 2 concentrators; 1 is" in said(capsys, "concentrator", "import", str(table), "--dry-run")
    assert Concentrator.objects.count() == 1
    said(capsys, "concentrator", "import", str(table))
    assert set(Concentrator.objects.values_list("name", flat=True)) == {"DCU-1", "DCU-2", "DCU-3"}
    assert "Registered 0 concentrators; 3 are" in said(capsys, "concentrator", "import", str(table))
    table.write_text("name\nDCU-4\ndcu-4\n\u200b\n")
    with pytest.raises(CommandError, match="2 bad lines: nothing was imported"):
        call_command("concentrator", "import", str(table))
    assert "line 3: name dcu-4 is already in line 2" in capsys.readouterr().err
    assert Concentrator.objects.count() == 3
    table.write_text("serial\n")
    with pytest.raises(CommandError, match="column name is missing"):
        call_command("concentrator", "import", str(table))
