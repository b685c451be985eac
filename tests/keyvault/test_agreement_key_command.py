"""manage.py agreement_key, and a second person asked for what cannot be taken back."""

import io
import json
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from pytest_django import Settings

from keyvault.device_keys import agreement_keys
from keyvault.models import AgreementKey, AgreementState, Approval, AuditRecord, DeviceKey, KeyState
from tests.factories import MeterFactory
from tests.keyvault.agreeing import pairs, provision
from tests.keyvault.device_keys.test_agreement_keys import OFFICER, TITLES

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("agreement_key", *words, stdout=out)
    return out.getvalue()


def test_init_list_and_rotate() -> None:
    assert "There is no agreement key yet" in run("list")
    said = run("init", "hes-1")
    public = bytes(AgreementKey.objects.get().public).hex()
    assert said == f"Made version 1 of hes-1, public {public}.\n"
    provision(pairs(TITLES), AgreementKey.objects.get())
    assert "5 meters still use version 1" in run("rotate", "hes-1", "--dry-run")
    assert AgreementKey.objects.count() == 1
    assert "rotate_device_keys begin --name NAME --agreed-with hes-1:1" in run("rotate", "hes-1")
    listed = run("list")
    assert "hes-1 version 1: replaced" in listed
    assert f"public {public}; meters that send under keys agreed with it: 5;" in listed
    assert "keys agreed with it that are still accepted: 10\n" in listed
    found = json.loads(run("list", "--json"))
    assert [(one["version"], one["state"], one["meters"]) for one in found] == [(2, "active", 0), (1, "replaced", 5)]
    assert "wrapped" not in found[0]


def test_meters_move_to_the_next_version_in_a_wave() -> None:
    titles = [bytes(MeterFactory.create().system_title) for _ in range(2)]
    provision(pairs(titles), agreement_keys.init("hes-1", OFFICER))
    agreement_keys.rotate("hes-1", OFFICER, NOW)
    out = io.StringIO()
    call_command("rotate_device_keys", "begin", "--name", "next", "--agreed-with", "hes-1:1", stdout=out)
    assert "Wave" in out.getvalue()
    assert ": 2 meters" in out.getvalue()
    for text in ("hes-1", "hes-1:x", ":1", "hes-1:9"):
        with pytest.raises(CommandError, match=r"version|VERSION"):
            call_command("rotate_device_keys", "begin", "--name", "x", "--agreed-with", text)


def test_cutting_off(monkeypatch: pytest.MonkeyPatch) -> None:
    provision(pairs(TITLES[:2]), agreement_keys.init("hes-1", OFFICER))
    assert "4 keys would be compromised" in run("cut_off", "hes-1", "1", "--dry-run")
    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    with pytest.raises(CommandError, match="'yes' is not 1: nothing was done"):
        run("cut_off", "hes-1", "1")
    assert AgreementKey.objects.get().state == AgreementState.ACTIVE
    monkeypatch.setattr("builtins.input", lambda prompt: "1")
    assert "4 keys that were agreed on with it" in run("cut_off", "hes-1", "1")
    assert set(DeviceKey.objects.values_list("state", flat=True)) == {KeyState.COMPROMISED}
    assert AuditRecord.objects.filter(act="agreement_key.cut_off").count() == 1
    with pytest.raises(CommandError, match="cut off already"):
        run("cut_off", "hes-1", "1", "--yes")
    with pytest.raises(CommandError, match="no version 7"):
        run("cut_off", "hes-1", "7", "--yes")


def test_a_second_person(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REQUIRE_APPROVAL = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    for name, group in (("ann", "key officer"), ("ben", "administrator")):
        User.objects.create_user(name, password=f"{name}'s").groups.add(Group.objects.get(name=group))
    agreement_keys.init("hes-1", OFFICER)
    with pytest.raises(CommandError, match="ask for it with manage"):
        run("cut_off", "hes-1", "1", "--yes")
    monkeypatch.setattr("sys.stdin", io.StringIO("ann's\n"))
    out = io.StringIO()
    words = ["request", "cut-off", "hes-1", "1", "--account", "ann", "--reason", "it leaked"]
    call_command("approvals", *words, stdout=out)
    assert "cut off version 1 of agreement key hes-1, and all keys of it" in out.getvalue()
    monkeypatch.setattr("sys.stdin", io.StringIO("ben's\n"))
    call_command("approvals", "approve", str(Approval.objects.get().pk), "--account", "ben", stdout=out)
    assert "0 keys" in run("cut_off", "hes-1", "1", "--yes")
    assert AgreementKey.objects.get().state == AgreementState.CUT_OFF
