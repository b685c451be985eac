"""manage.py meter_identity, and the certificates that manage.py authority issues for it."""

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command

from concentrators.models import Reverification
from keyvault import journal
from keyvault.coupons import store as coupon_store
from keyvault.coupons.forms import encode_reading
from keyvault.journal import replay_enrolment
from keyvault.models import AuditRecord, Authority, MeterIdentity
from keyvault.replay_window_store import Care
from tests.damage import damaged
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
TITLE = "0024befffe804ff1"
COPIED = ("system_title", "authority_id", "certificate", "issued_at", "expires_at", "registered_at", "mac")
PUBLIC = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


def ran(*words: object) -> str:
    out = StringIO()
    call_command(*map(str, words), stdout=out, stderr=out)
    return out.getvalue()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of an authority that is pinned, from the authority's own key file."""
    key_file = tmp_path / "lab.authority"
    said = ran("authority", "init", key_file, "--kid", "lab-1", "--issuer", "Our laboratory")
    public = said.rsplit("--public ", 1)[1].strip()
    ran("authority", "pin", "--kid", "lab-1", "--issuer", "Our laboratory", "--public", public)
    path = tmp_path / "meter.identity"
    ran("authority", "issue", key_file, TITLE, "--public", PUBLIC.hex(), "--identity", "--output", path)
    return path


def test_an_identity_is_registered_once(certificate: Path) -> None:
    before = AuditRecord.objects.count()
    assert "1 identity would be registered" in ran("meter_identity", "register", certificate, "--dry-run")
    assert (MeterIdentity.objects.count(), AuditRecord.objects.count()) == (0, before)
    said = ran("meter_identity", "register", certificate)
    assert "1 identity registered, 0 had been registered before." in said
    assert f"No meter with system title {TITLE} is registered yet" in said
    MeterFactory.create(system_title=bytes.fromhex(TITLE))
    again = ran("meter_identity", "register", certificate)
    assert ("0 identities registered, 1 had been registered before." in again, "No meter" in again) == (True, False)
    assert PUBLIC.hex() in ran("meter_identity", "list")
    (row,) = json.loads(ran("meter_identity", "list", "--json"))
    assert (row["system_title"], row["authority"]) == (TITLE, "Our laboratory")


def test_what_is_refused_registers_nothing(certificate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(damaged(certificate.read_bytes()))
    for words, why in (
        ([certificate, other], "its signature does not fit.*Nothing was done"),
        ([tmp_path / "none"], "cannot read"),
    ):
        with pytest.raises(CommandError, match=why):
            ran("meter_identity", "register", *words)
    assert not MeterIdentity.objects.exists()
    out = StringIO()
    call_command("meter_identity", "list", stdout=out)
    assert "No identity" in out.getvalue()


def test_a_certificate_is_for_enrolment_or_for_an_identity(certificate: Path, tmp_path: Path) -> None:
    issue = ["authority", "issue", tmp_path / "lab.authority", TITLE, "--public", PUBLIC.hex()]
    for more in ([], ["--aud", "hes-1", "--identity"]):
        with pytest.raises(CommandError, match="--aud names an agreement key, or --identity"):
            ran(*issue, "--output", tmp_path / "new", *more)
    said = ran(*issue, "--output", tmp_path / "new", "--identity")
    assert "It had another one, which is now revoked" in said


def test_a_restore_brings_identities_back(certificate: Path) -> None:
    written: list[tuple[str, Any]] = []
    original = journal.append

    def noting(kind: str, body: Any) -> None:
        written.append((kind, body))
        original(kind, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "append", noting)
        ran("meter_identity", "register", certificate)
    ((_, rows),) = [one for one in written if one[0] == "identities"]
    before = MeterIdentity.objects.get()
    MeterIdentity.objects.all().delete()
    for _ in range(2):
        replay_enrolment.identities(rows)
    after = MeterIdentity.objects.get()
    for name in ("system_title", "public", "cti", "certificate", "mac"):
        assert bytes(getattr(after, name)) == bytes(getattr(before, name))
    for name in ("authority_id", "issued_at", "expires_at"):
        assert getattr(after, name) == getattr(before, name)
    assert abs(after.registered_at - before.registered_at) < timedelta(seconds=1)


def test_what_was_written_to_the_database_alone_is_no_identity(
    certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that somebody inserted, or one with another key, announces nothing."""
    ran("meter_identity", "register", certificate)
    title = bytes.fromhex(TITLE)

    def known() -> list[bytes]:
        named = [(title + b"\0\1", encode_reading(title + b"\0\1", 0, b"", bytes(32)))]
        return [one.public for one in coupon_store.read(named, Care.LOOK).identities.get(title, ())]

    assert known() == [PUBLIC]
    row = MeterIdentity.objects.get()
    for changes in ({"public": bytes(range(32))}, {"mac": b""}, {"system_title": bytes(8)}, {"cti": bytes(8)}):
        MeterIdentity.objects.update(**changes)
        assert known() == [], changes
        assert ("registered by nobody" in caplog.text) is ("system_title" not in changes)
        caplog.clear()
        row.save()
    MeterIdentity.objects.create(**{name: getattr(row, name) for name in COPIED}, public=bytes(32), cti=bytes(8))
    assert known() == [PUBLIC]


def test_identities_of_earlier_releases_are_confirmed(certificate: Path) -> None:
    ran("meter_identity", "register", certificate)
    before = MeterIdentity.objects.get()
    assert "0 identities confirmed, 1 stood already." in ran("meter_identity", "confirm")
    MeterIdentity.objects.update(mac=b"")
    Reverification.objects.all().delete()
    assert TITLE in ran("meter_identity", "confirm", "--dry-run")
    assert bytes(MeterIdentity.objects.get().mac) == b""
    assert "1 identity confirmed, 0 stood already." in ran("meter_identity", "confirm")
    assert bytes(MeterIdentity.objects.get().mac) == bytes(before.mac)
    assert AuditRecord.objects.latest("number").act == "identity.confirm"
    assert Reverification.objects.filter(cause="coupon").exists(), "lists that waited are judged again"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mac": b"", "public": bytes(32)}, "another title, key or number"),
        ({"mac": b"", "system_title": bytes(8)}, "another title, key or number"),
        ({"public": bytes(32)}, "was changed after it was registered"),
        ({"mac": b"", "certificate": b"\xd2"}, "certificate"),
    ],
)
def test_a_row_that_does_not_fit_its_certificate_is_not_confirmed(
    certificate: Path, changes: dict[str, bytes], why: str
) -> None:
    ran("meter_identity", "register", certificate)
    MeterIdentity.objects.update(**changes)
    before = bytes(MeterIdentity.objects.get().mac)
    with pytest.raises(CommandError, match=f"{why}.*Nothing was done"):
        ran("meter_identity", "confirm")
    assert bytes(MeterIdentity.objects.get().mac) == before


def test_an_identity_of_an_authority_that_is_pinned_no_more_is_not_confirmed(certificate: Path) -> None:
    ran("meter_identity", "register", certificate)
    MeterIdentity.objects.update(mac=b"")
    Authority.objects.update(mac=b"")
    with pytest.raises(CommandError, match="no authority"):
        ran("meter_identity", "confirm")
