"""manage.py approvals: asked for and decided by accounts that show their passwords, whoever runs the command."""

import io
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from pytest_django import Settings

from ami_headend.signin.models import RecoveryCodes, SignIn
from keyvault import master_key
from keyvault.device_keys.provisioning import provision_devices
from keyvault.models import Approval, AuditRecord
from tests.keyvault.shipping import transport_file
from tests.signin.people import enrolled, wrong

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("0024befffe804ff1")


@pytest.fixture(autouse=True)
def people(settings: Settings) -> None:
    settings.REQUIRE_APPROVAL = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    for name, group in (("ann", "key officer"), ("ben", "administrator"), ("olga", "operator")):
        User.objects.create_user(name, password=f"{name}'s").groups.add(Group.objects.get(name=group))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What stands on standard input."""
    stdin = io.StringIO()
    monkeypatch.setattr("sys.stdin", stdin)
    return stdin


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("approvals", *words, stdout=out)
    return out.getvalue()


def ask(stdin: io.StringIO, key_file: Path, account: str = "ann") -> str:
    say(stdin, f"{account}'s")
    export = ["--transport-key", str(key_file), "--meters", TITLE.hex()]
    return run("request", "export", *export, "--account", account, "--reason", "to the laboratory")


def say(stdin: io.StringIO, line: str) -> None:
    stdin.seek(0)
    stdin.truncate()
    stdin.write(f"{line}\n")
    stdin.seek(0)


def test_an_export_from_request_to_file(typed: io.StringIO, tmp_path: Path) -> None:
    provision_devices([TITLE])
    key_file = transport_file(tmp_path)
    export = ["--transport-key", str(key_file), "--meters", TITLE.hex(), "--output", str(tmp_path / "out")]
    with pytest.raises(CommandError, match=r"ask for it with manage\.py approvals request\. Nothing was exported"):
        call_command("export_keys", *export)
    said = ask(typed, key_file)
    number = Approval.objects.get().pk
    assert f"Approval {number}: export the keys of 1 meter" in said
    with pytest.raises(CommandError, match=f"approval {number} waits for a second person"):
        call_command("export_keys", *export)
    say(typed, "ben's")
    said = run("approve", str(number), "--account", "ben")
    assert "ann requests to export the keys of 1 meter" in said
    assert "to the laboratory" in said
    assert f"Approved {number}" in said
    listed = run("list")
    assert "approved" in listed
    assert "ann" in listed
    call_command("export_keys", *export, stdout=io.StringIO())
    assert (tmp_path / "out").exists()
    assert "Nothing waits" in run("list")
    assert "used" in run("list", "--all")
    assert AuditRecord.objects.latest("number").subject["approved_by"] == "ben"


@pytest.mark.parametrize("line", ["", "ann's", "ben's ", "BEN'S"])
def test_another_account_takes_its_own_password(typed: io.StringIO, tmp_path: Path, line: str) -> None:
    ask(typed, transport_file(tmp_path))
    number = str(Approval.objects.get().pk)
    say(typed, line)
    for action in ("approve", "refuse"):
        with pytest.raises(CommandError, match="that is not the password of ben"):
            run(action, number, "--account", "ben")
    with pytest.raises(CommandError, match="that is not the password of nobody"):
        run("approve", number, "--account", "nobody")
    assert Approval.objects.get().approved_at is None
    assert AuditRecord.objects.count() == 1
    assert SignIn.objects.get(account="ben").attempts == 2
    assert SignIn.objects.get(account="").outcome == "wrong_password"


def test_one_may_not_approve_ones_own_or_without_the_right(typed: io.StringIO, tmp_path: Path) -> None:
    ask(typed, transport_file(tmp_path))
    number = str(Approval.objects.get().pk)
    for name, said in (("ann", "another person must approve it"), ("olga", "may not approve")):
        say(typed, f"{name}'s")
        with pytest.raises(CommandError, match=f"{said}.*Nothing was done"):
            run("approve", number, "--account", name)
    User.objects.filter(username="ben").update(is_active=False)
    say(typed, "ben's")
    with pytest.raises(CommandError, match="no such account"):
        run("approve", number, "--account", "ben")
    say(typed, "ann's")
    assert f"Refused {number}" in run("refuse", number, "--account", "ann")


def test_what_cannot_be_asked_for(typed: io.StringIO, tmp_path: Path) -> None:
    key_file = transport_file(tmp_path)
    with pytest.raises(CommandError, match="olga may not ask for this"):
        ask(typed, key_file, "olga")
    with pytest.raises(CommandError, match="is the active one"):
        run("request", "destroy", str(master_key.current().active_version), "--account", "ann", "--reason", "old")
    with pytest.raises(CommandError, match="there is no approval 9"):
        run("approve", "9", "--account", "ben")
    with pytest.raises(CommandError, match="none"):
        ask(typed, tmp_path / "none")
    assert not Approval.objects.exists()


def test_a_terminal_asks_for_the_second_factor_too(typed: io.StringIO, tmp_path: Path, settings: Settings) -> None:
    ask(typed, transport_file(tmp_path))
    number = str(Approval.objects.get().pk)
    settings.TWO_FACTOR_REQUIRED = True
    say(typed, "ben's")
    with pytest.raises(CommandError, match="ben needs a second factor: sign in to the console"):
        run("approve", number, "--account", "ben")
    secret, recovery_codes = enrolled(User.objects.get(username="ben"))
    for code in ("", wrong(secret), f"x{recovery_codes[0]}"):
        say(typed, f"ben's\n{code}")
        with pytest.raises(CommandError, match=r"(is wrong|wrong codes).*Nothing was done"):
            run("approve", number, "--account", "ben")
    assert Approval.objects.get().approved_at is None
    RecoveryCodes.objects.update(throttling_failure_count=0)  # the wait is over
    say(typed, f"ben's\n{recovery_codes[0]}")
    assert f"Approved {number}" in run("approve", number, "--account", "ben")
    attempts = SignIn.objects.filter(account="ben", address="terminal").values_list("outcome", flat=True)
    assert "wrong_code" in attempts
