"""manage.py authority, from an authority's key file to a meter that enrolled, and back."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from keyvault.device_keys import agreement_keys
from keyvault.enrolment.authority_file import load
from keyvault.enrolment.certificates import parse_certificate, parse_revocation, verify
from keyvault.models import Approval, AuditRecord, Authority, AwaitedEnrolment, DeviceKey, KeyState, RevokedCertificate
from tests.concentrators.enrolling import OFFICER, Newcomer
from tests.concentrators.fleet import judged
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.schemes.test_agreed import METER_PUBLIC

pytestmark = pytest.mark.django_db
TITLE = "0024befffe804ff1"
NAMES = ["--kid", "lab-1", "--issuer", "Our laboratory"]


def run(*words: object, err: io.StringIO | None = None) -> str:
    out = io.StringIO()
    call_command("authority", *map(str, words), stdout=out, stderr=err or io.StringIO())
    return out.getvalue()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "lab.authority"
    run("init", path, *NAMES)
    return path


def pinned(key_file: Path) -> Path:
    run("pin", *NAMES, "--public", load(key_file).public.public.hex())
    return key_file


def issue(key_file: Path, title: str, public: bytes, output: Path) -> str:
    return run("issue", key_file, title, "--public", public.hex(), "--aud", "hes-1", "--output", output)


def test_the_key_file_is_its_owners_alone(key_file: Path) -> None:
    assert key_file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandError, match="exists already"):
        run("init", key_file, *NAMES)
    key_file.chmod(0o640)
    with pytest.raises(CommandError, match="others may read it"):
        issue(key_file, TITLE, METER_PUBLIC, key_file.with_name("meter.cwt"))
    assert not Authority.objects.exists()
    assert load(_again(key_file)).public.public.hex() not in key_file.read_text()


def _again(key_file: Path) -> Path:
    key_file.chmod(0o600)
    return key_file


def test_a_file_that_cannot_be_made_is_known_before_the_authority_acts(key_file: Path) -> None:
    before = key_file.read_bytes()
    with pytest.raises(CommandError, match="No such file"):
        issue(key_file, TITLE, METER_PUBLIC, key_file.with_name("nowhere") / "meter.cwt")
    assert key_file.read_bytes() == before
    issue(key_file, TITLE, METER_PUBLIC, key_file.with_name("meter.cwt"))
    before = key_file.read_bytes()
    for output, said in (("nowhere/revocation", "No such file"), ("meter.cwt", "exists already")):
        with pytest.raises(CommandError, match=said):
            run("revoke", TITLE, "--with", key_file, "--output", key_file.parent / output)
    assert key_file.read_bytes() == before


def test_a_certificate_and_what_a_second_one_does_to_the_first(key_file: Path) -> None:
    output = key_file.with_name("meter.cwt")
    assert "octets, until" in issue(key_file, TITLE, METER_PUBLIC, output)
    first = parse_certificate(output.read_bytes())
    verify(first.signed, load(key_file).public.public)
    assert (first.system_title.hex(), first.audience, first.public) == (TITLE, "hes-1", METER_PUBLIC)
    with pytest.raises(CommandError, match="left as it is"):
        issue(key_file, TITLE, METER_PUBLIC, output)
    second = key_file.with_name("second.cwt")
    assert "revoked: give" in issue(key_file, TITLE, METER_PUBLIC, second)
    revocation = parse_revocation(key_file.with_name("second.cwt.revocation-1").read_bytes())
    assert revocation.cti == first.cti != parse_certificate(second.read_bytes()).cti
    assert oct(key_file.stat().st_mode & 0o777) == "0o600"


def test_of_two_that_issue_at_once_both_are_known(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads the file, and writes it with what it issued: the second begins once the first has written."""
    titles = [f"0024befffe80{number:04x}" for number in range(4)]
    both = threading.Barrier(len(titles))
    read = Path.read_text

    def slowly(path: Path) -> str:
        text = read(path)
        time.sleep(0.05)
        return text

    def issue_one(title: str) -> None:
        both.wait()
        issue(key_file, title, METER_PUBLIC, key_file.with_name(title))

    monkeypatch.setattr(Path, "read_text", slowly)
    with ThreadPoolExecutor(len(titles)) as pool:
        list(pool.map(issue_one, titles))
    assert sorted(one["system_title"] for one in json.loads(read(key_file))["issued"]) == titles


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--public", "00" * 32], "small order"),
        (["--public", "ff" * 32], "one encoding"),
        (["--public", "zz"], "not hexadecimal"),
        (["--public", METER_PUBLIC.hex(), "--days", "0"], "at least one day"),
        (["--public", METER_PUBLIC.hex(), "--aud", "x" * 400], "at most 512 octets"),
    ],
)
def test_what_is_not_issued(key_file: Path, words: list[str], says: str) -> None:
    before = key_file.read_text()
    output = key_file.with_name("meter.cwt")
    with pytest.raises(CommandError, match=says):
        run("issue", key_file, TITLE, "--aud", "hes-1", "--output", output, *words)
    assert not output.exists()
    assert key_file.read_text() == before


def test_other_files_are_no_authority(tmp_path: Path) -> None:
    path = tmp_path / "other"
    for text in ("", "[]", "{}", '{"form": "ami-headend authority 1"}', "nonsense"):
        path.write_text(text)
        with pytest.raises(CommandError, match="no key file of an authority"):
            issue(path, TITLE, METER_PUBLIC, tmp_path / "meter.cwt")
    with pytest.raises(CommandError, match="cannot read"):
        issue(tmp_path / "missing", TITLE, METER_PUBLIC, tmp_path / "meter.cwt")


def test_from_pinning_to_a_meter_and_its_revocation(key_file: Path) -> None:
    pinned(key_file)
    newcomer = Newcomer(MeterFactory.create(), agreement_keys.init("hes-1", OFFICER))
    title = newcomer.title.hex()
    certificate = key_file.with_name("meter.cwt")
    issue(key_file, title, newcomer.public, certificate)
    assert "1 meter may enrol, once each: 1 for scheme ccm." in run("allow", title)
    assert "1 meter may enrol" in run("list")
    frames = [newcomer.frame(certificate.read_bytes())]
    assert judged(ConcentratorFactory.create(), frames, timezone.now()) == {"accepted": 1}
    assert "it enrolled 1 meter," in run("list")
    revocation = key_file.with_name("meter.revocation")
    run("revoke", title, "--with", key_file, "--output", revocation)
    assert not RevokedCertificate.objects.exists()
    assert "whose keys stay valid" in run("revoke", revocation)
    assert set(DeviceKey.objects.values_list("state", flat=True)) == {KeyState.ACTIVE}
    assert f"Compromised: 2 keys of {title}, which it had enrolled" in run("revoke", revocation, "--compromise")
    assert set(DeviceKey.objects.values_list("state", flat=True)) == {KeyState.COMPROMISED}
    with pytest.raises(CommandError, match="no certificate"):
        run("revoke", title, "--with", key_file, "--output", key_file.with_name("another"))
    acts = set(AuditRecord.objects.values_list("act", flat=True))
    assert acts >= {"authority.pin", "authority.allow", "authority.revoke", "device_key.compromise"}
    (found,) = json.loads(run("list", "--json"))["authorities"]
    assert (found["issuer"], found["enrolled"], found["revoked"]) == ("Our laboratory", 1, 1)


def test_revocations_of_others_are_refused(key_file: Path) -> None:
    issue(key_file, TITLE, METER_PUBLIC, key_file.with_name("meter.cwt"))
    revocation = key_file.with_name("revocation")
    run("revoke", TITLE, "--with", key_file, "--output", revocation)
    with pytest.raises(CommandError, match="no authority lab-1 is pinned"):
        run("revoke", revocation)
    run("pin", *NAMES, "--public", "11" * 32)
    with pytest.raises(CommandError, match="signature does not fit"):
        run("revoke", revocation)
    with pytest.raises(CommandError, match=r"COSE_Sign1|ends too early|follow|at most"):
        run("revoke", key_file)
    with pytest.raises(CommandError, match="cannot read"):
        run("revoke", key_file.with_name("missing"))
    assert not RevokedCertificate.objects.exists()


def test_pinning(key_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    public = load(key_file).public.public.hex()
    settings.REQUIRE_APPROVAL = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    for name, group in (("ann", "key officer"), ("ben", "administrator")):
        User.objects.create_user(name, password=f"{name}'s").groups.add(Group.objects.get(name=group))
    with pytest.raises(CommandError, match="approval of a second person"):
        run("pin", *NAMES, "--public", public)
    out = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("ann's\n"))
    words = ["request", "pin", *NAMES, "--public", public, "--account", "ann", "--reason", "our meters"]
    call_command("approvals", *words, stdout=out)
    assert f"let authority Our laboratory ({public}) vouch for the keys of meters" in out.getvalue()
    monkeypatch.setattr("sys.stdin", io.StringIO("ben's\n"))
    call_command("approvals", "approve", str(Approval.objects.get().pk), "--account", "ben", stdout=out)
    with pytest.raises(CommandError, match="approval of a second person"):
        run("pin", *NAMES, "--public", "11" * 32)  # another key than the one that was approved
    run("pin", *NAMES, "--public", public)
    assert Authority.objects.count() == 1
    settings.REQUIRE_APPROVAL = False
    with pytest.raises(CommandError, match="pinned under this kid already"):
        run("pin", *NAMES, "--public", "11" * 32)
    with pytest.raises(CommandError, match="32 octets"):
        run("pin", "--kid", "x", "--issuer", "y", "--public", "11")


def test_unpinning(key_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(key_file)
    settings.REQUIRE_APPROVAL = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    for name, group in (("ann", "key officer"), ("ben", "administrator")):
        User.objects.create_user(name, password=f"{name}'s").groups.add(Group.objects.get(name=group))
    with pytest.raises(CommandError, match=r"approval of a second person.*Nothing was done"):
        run("unpin", "--kid", "lab-1")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("ann's\n"))
    call_command("approvals", "request", "unpin", "--kid", "lab-1", "--account", "ann", "--reason", "lost", stdout=out)
    assert "unpin authority Our laboratory" in out.getvalue()
    monkeypatch.setattr("sys.stdin", io.StringIO("ben's\n"))
    call_command("approvals", "approve", str(Approval.objects.get().pk), "--account", "ben", stdout=out)
    assert "can no longer enrol meters" in run("unpin", "--kid", "lab-1")
    assert "unpinned 20" in run("list")
    (found,) = json.loads(run("list", "--json"))["authorities"]
    assert found["unpinned_at"]
    record = AuditRecord.objects.get(act="authority.unpin")
    assert (record.subject["kid"], record.subject["approved_by"]) == (b"lab-1".hex(), "ben")
    for kid in ("lab-1", "lab-2"):
        with pytest.raises(CommandError, match=f"no authority {kid} is pinned"):
            run("unpin", "--kid", kid)


def test_meters_that_may_enrol() -> None:
    with pytest.raises(CommandError, match="Nothing was done"):
        run("allow", "nonsense")
    with pytest.raises(CommandError, match="not one of"):
        run("allow", TITLE, "--scheme", "rot13")
    with pytest.raises(CommandError, match="has no keys for"):
        run("allow", TITLE, "--algorithm", "99")
    assert not AwaitedEnrolment.objects.exists()
    run("allow", TITLE)
    run("allow", TITLE, "--algorithm", "11")
    (row,) = AwaitedEnrolment.objects.all()
    assert (row.scheme, row.algorithm) == ("ccm", 11)


def test_a_title_that_no_meter_has_is_allowed_and_said() -> None:
    registered, err = bytes(MeterFactory.create().system_title).hex(), io.StringIO()
    assert "2 meters may enrol" in run("allow", registered, TITLE, TITLE, err=err)
    assert f"No meter with system title {TITLE} is registered yet" in err.getvalue()
    assert registered not in err.getvalue()
    assert AwaitedEnrolment.objects.count() == 2
    many = [f"0024befffe90{number:04x}" for number in range(22)]
    run("allow", *many, err=err)
    assert f"{many[19]} and 2 more is registered yet" in err.getvalue()
    err.truncate(err.seek(0))
    run("allow", registered, err=err)
    assert not err.getvalue()
