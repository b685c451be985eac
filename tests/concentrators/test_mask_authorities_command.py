"""manage.py mask_authorities: pinned with a second person's approval, listed, and groups of meters."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from keyvault.models import AuditRecord, MaskAuthority
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
PIN = ("pin", "--name", "council", "--url", "https://masks.example.org", "--public", "07" * 32)


def run(*words: str) -> str:
    out = StringIO()
    call_command("mask_authorities", *words, stdout=out)
    return out.getvalue()


def test_an_authority_is_pinned_listed_and_withdrawn() -> None:
    assert "No mask authority" in run("list")
    assert "Pinned council" in run(*PIN)
    (row,) = json.loads(run("list", "--json"))
    assert (row["name"], row["url"], row["open"], row["public"]) == (
        "council", "https://masks.example.org", 0, "07" * 32,
    )  # fmt: skip
    assert "is no longer asked" in run("withdraw", "council")
    assert "withdrawn" in run("list")


def test_pinning_takes_a_second_person_where_that_is_required(settings: Settings) -> None:
    settings.REQUIRE_APPROVAL = True
    with pytest.raises(CommandError, match="needs the approval of a second person"):
        run(*PIN)
    assert not MaskAuthority.objects.exists()


def test_the_key_of_requests_is_one(master_key_file: Path) -> None:
    assert run("key") == run("key")
    assert len(bytes.fromhex(run("key"))) == 32


def test_meters_are_of_a_group() -> None:
    meters = MeterFactory.create_batch(2)
    titles = [bytes(meter.system_title).hex() for meter in meters]
    assert run("group", "north", *titles) == "2 meters are now in mask group 'north'.\n"
    assert AuditRecord.objects.latest("number").act == "meter.mask_group"
    with pytest.raises(CommandError, match="no meter has the system title 0000000000000001"):
        run("group", "north", "0000000000000001")


def test_without_authorities_nothing_is_collected() -> None:
    assert run("collect", "--settle", "0") == "0 sets formed, 0 answers came, 0 sets closed, 0 tries failed.\n"


def test_a_key_that_is_not_hexadecimal_is_named() -> None:
    with pytest.raises(CommandError, match="--public is not hexadecimal"):
        run("pin", "--name", "council", "--url", "https://masks.example.org", "--public", "zz")
