"""manage.py mask_authorities: pinned with a second person's approval, listed, and groups of meters."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from keyvault import journal
from keyvault.journal import replay_masking
from keyvault.masking import pinned
from keyvault.models import AuditRecord, MaskAuthority, SigningSecret
from tests.concentrators.fleet import NOW
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


def test_a_restore_keeps_the_key_of_requests(master_key_file: Path) -> None:
    """Authorities pinned its public key; another one they would not answer."""
    written: list[tuple[str, Any]] = []
    original = journal.append

    def noting(kind: str, body: Any) -> int:
        written.append((kind, body))
        return original(kind, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "append", noting)
        before = run("key")
        assert run("key") == before
    ((_, body),) = [one for one in written if one[0] == "mask_requests_key"]
    SigningSecret.objects.all().delete()  # as in a dump from before the key was made
    for _ in range(2):
        replay_masking.requests_key(*body)
        assert run("key") == before


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


class TestRowsThatNobodysActMade:
    """Whoever writes to the database alone neither pins, nor changes, nor undoes, nor withdraws."""

    def test_a_row_that_was_inserted_or_changed_is_not_asked(self, caplog: pytest.LogCaptureFixture) -> None:
        run(*PIN)
        assert [one.name for one in pinned.asked()] == ["council"]
        MaskAuthority.objects.create(name="mine", url="http://x", public=bytes(32), pinned_at=NOW, mac=bytes(32))
        assert [one.name for one in pinned.asked()] == ["council"]
        assert "'mine' was pinned by nobody" in caplog.text
        MaskAuthority.objects.filter(name="council").update(url="http://elsewhere")
        assert pinned.asked() == []

    def test_a_withdrawal_is_not_undone(self, caplog: pytest.LogCaptureFixture) -> None:
        run(*PIN)
        before = MaskAuthority.objects.get()
        run("withdraw", "council")
        MaskAuthority.objects.update(withdrawn_at=None)
        assert pinned.asked() == []
        assert "'council' was pinned by nobody, or its row was changed" in caplog.text
        before.save()  # with the MAC that it had before
        assert pinned.asked() == []
        assert "was withdrawn, and its older row put back" in caplog.text

    def test_who_was_withdrawn_by_nobody_is_asked_as_before(self, caplog: pytest.LogCaptureFixture) -> None:
        """Else the sums of its group would lack its masks."""
        run(*PIN)
        MaskAuthority.objects.update(withdrawn_at=NOW)
        assert [one.name for one in pinned.asked()] == ["council"]
        assert "was withdrawn by nobody" in caplog.text

    def test_one_that_an_earlier_release_withdrew_stays_so(self) -> None:
        run(*PIN)
        mac = bytes(MaskAuthority.objects.get().mac)
        run("withdraw", "council")
        MaskAuthority.objects.update(mac=mac)  # earlier releases left it as it was
        assert pinned.asked() == []
        MaskAuthority.objects.update(withdrawn_at=None)
        assert pinned.asked() == []

    def test_a_restore_withdraws_again(self) -> None:
        written: list[tuple[str, Any]] = []
        run(*PIN)
        before = MaskAuthority.objects.get()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal, "append", lambda kind, body: written.append((kind, body)))
            run("withdraw", "council")
        after = MaskAuthority.objects.get()
        before.save()
        ((_, body),) = [one for one in written if one[0] == "mask_authority_withdrawn"]
        replay_masking.withdrawn(*body)
        again = MaskAuthority.objects.get()
        assert bytes(again.mac) == bytes(after.mac)
        assert again.withdrawn_at is not None
        assert pinned.asked() == []
