"""`manage.py compromise_keys`: what it cuts off, and what it asks first."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from keyvault.device_keys import provisioning
from keyvault.models import AuditRecord, DeviceKey

pytestmark = pytest.mark.django_db
ONE, OTHER = bytes.fromhex("0024befffe804ff1"), bytes.fromhex("0024befffe804ff2")


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("compromise_keys", *arguments, stdout=out)
    return out.getvalue()


def compromised() -> set[tuple[bytes, int]]:
    rows = DeviceKey.objects.filter(state="compromised").values_list("system_title", "epoch")
    return {(bytes(title), epoch) for title, epoch in rows}


def test_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    provisioning.provision_devices([ONE, OTHER])
    questions = []

    def answer(question: str) -> str:
        questions.append(question)
        return "yes"

    monkeypatch.setattr("builtins.input", answer)
    assert run("--device", ONE.hex()) == "1 key marked as compromised.\n"
    assert compromised() == {(ONE, 1)}
    assert questions == ["Mark 1 key of 1 device as compromised, for good? Type yes: "]
    record = AuditRecord.objects.get()
    assert (record.act, record.result) == ("device_key.compromise", "1 cut off")
    with pytest.raises(CommandError, match="all of these keys are compromised already"):
        run("--device", ONE.hex(), "--yes")
    run("--device", OTHER.hex(), "--epoch", "0", "--yes")
    assert compromised() == {(ONE, 1), (OTHER, 0)}


def test_a_fleet_key_takes_all_that_was_derived_from_it() -> None:
    provisioning.provision_devices([ONE], fleet_key=provisioning.create_fleet_key("spring"))
    provisioning.provision_devices([OTHER])
    assert run("--fleet-key", "spring", "--yes") == "2 keys marked as compromised.\n"
    assert compromised() == {(ONE, 0), (ONE, 1)}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "zz"], "is not 16 hex digits"),
        (["--device", "ffffffffffffffff"], "has no key of its own"),
        (["--device", ONE.hex(), "--epoch", "7"], "has no such key"),
        (["--fleet-key", "nobody"], "there is no fleet key nobody"),
        (["--fleet-key", "spring", "--epoch", "1"], "does not go with --fleet-key"),
        (["--device", ONE.hex()], "not confirmed"),
    ],
)
def test_nothing_is_done_by_mistake(arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    provisioning.provision_devices([ONE])
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(CommandError, match=sentence):
        run(*arguments)
    assert compromised() == set()
    assert not AuditRecord.objects.exists()


def test_without_anybody_to_ask_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    provisioning.provision_devices([ONE])
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(CommandError, match="not confirmed"):
        run("--device", ONE.hex())
    assert compromised() == set()
