"""The key journal knows how far the audit chain went: whoever owns the database cuts nothing off unnoticed."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.alerts.conditions.keys import audit_broken
from ami_headend.alerts.models import Rule
from keyvault import journal
from keyvault.audit import chain, witness
from keyvault.audit.chain import Actor, AuditError
from keyvault.journal import JournalError, audit_commits, writing
from keyvault.models import AuditKey, AuditRecord
from tests.flows import databases

OFFICER = Actor("officer", "test")


@pytest.fixture
def folder(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, settings: Settings, tmp_path: Path
) -> Iterator[Path]:
    """The key journal of a database of the test's own, in which five acts were committed."""
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    with django_db_blocker.unblock(), databases.copied():
        act(5)
        yield tmp_path / "journal"


def act(times: int = 1) -> None:
    for number in range(times):
        chain.record(OFFICER, "act", {"number": number})


def as_owner(statement: str, *params: Any) -> None:
    """A statement past the trigger, as whoever owns the tables can run it."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE keyvault_auditrecord DISABLE TRIGGER USER")
        cursor.execute(statement, params)
        cursor.execute("ALTER TABLE keyvault_auditrecord ENABLE TRIGGER USER")


def found(rule: Rule) -> int:
    return audit_broken(rule, [], datetime.now(UTC)).total


def test_a_chain_is_borne_out_by_the_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verified = witness.verify()
    assert (verified.head.number, verified.is_borne_out) == (5, True)
    call_command("audit", "verify")
    assert "knows the last one, and none after it: its end was not cut off" in capsys.readouterr().out


def test_after_the_loss_of_a_host_its_mirror_bears_the_chain_out(
    folder: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another host, whose own journal is empty; a mirror that is away keeps nobody from reading the others."""
    mirror, own = tmp_path / "mirror", tmp_path / "other"
    folder.rename(mirror)
    own.mkdir()
    settings.KEY_JOURNAL_DIR, settings.KEY_JOURNAL_MIRRORS = own, [tmp_path / "away", mirror]
    call_command("audit", "verify")
    assert f"in {own}, {mirror} knows the last one, and none after it" in capsys.readouterr().out


def test_a_cut_at_the_end_is_found(folder: Path) -> None:
    as_owner("DELETE FROM keyvault_auditrecord WHERE number > 3")
    with pytest.raises(CommandError, match="knows that it went on to 5: it was cut off"):
        call_command("audit", "verify")
    assert found(Rule()) == 1  # a rule whose own mark was reset, too


def test_a_cut_that_is_written_over_is_found(folder: Path) -> None:
    as_owner("DELETE FROM keyvault_auditrecord WHERE number > 3")
    act(4)
    with pytest.raises(CommandError, match="record 4 is not the one that the key journal knows"):
        call_command("audit", "verify")
    assert found(Rule()) == 1


@pytest.mark.parametrize("with_key", [True, False])
def test_no_chain_is_begun_where_the_journal_knows_one(folder: Path, with_key: bool) -> None:
    as_owner("DELETE FROM keyvault_auditrecord")
    if with_key:
        AuditKey.objects.all().delete()
    with pytest.raises(AuditError, match="knows an audit chain of 5 records, and the database has none"):
        act()
    assert not AuditRecord.objects.exists()
    with pytest.raises(CommandError, match="the chain is empty; the key journal knows 5 records"):
        call_command("audit", "verify")
    assert found(Rule()) == 1


def test_an_act_that_was_not_committed_is_no_cut(folder: Path) -> None:
    for _ in range(2):
        with transaction.atomic():
            act(2)
            transaction.set_rollback(True)
    assert witness.verify().is_borne_out
    act()
    assert (witness.verify().head.number, witness.verify().is_borne_out) == (6, True)


def test_killed_between_commit_and_note_is_no_cut_and_nothing_is_claimed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal, "note", lambda *args: None)
        act()
    verified = witness.verify()
    assert (verified.head.number, verified.is_borne_out) == (6, False)
    assert "knows record 5 and none after it" in str(verified)
    act()  # proves the one before
    assert witness.verify().is_borne_out


def test_a_full_disk_after_the_commit_takes_nothing_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, calls = writing._append, []

    def full(path: Path, octets: bytes, size: int) -> int:
        calls.append(size)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return append(path, octets, size)

    monkeypatch.setattr(writing, "_append", full)
    act()
    assert chain.head().number == 6
    assert not witness.verify().is_borne_out


def test_without_a_journal_it_claims_no_more_than_it_knows(folder: Path, settings: Settings, tmp_path: Path) -> None:
    settings.KEY_JOURNAL_DIR = tmp_path / "nowhere"
    verified = witness.verify()
    assert (verified.is_borne_out, "Whether its end was cut off is not known" in str(verified)) == (False, True)
    with pytest.raises(JournalError, match="there is no folder"):
        witness.verify(folders=[tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    assert "knows none of them" in str(witness.verify(folders=[tmp_path / "empty"]))
    assert witness.verify(folders=[tmp_path / "empty", folder]).is_borne_out


def test_a_damaged_journal_is_told_of(folder: Path) -> None:
    (path,) = folder.glob("*.journal")
    octets = bytearray(path.read_bytes())
    octets[-10] ^= 1
    path.write_bytes(octets)
    assert "Parts of the journal cannot be read" in str(witness.verify())
    assert audit_commits.read().last < 5


def test_a_damaged_copy_is_not_told_of_where_another_is_whole(folder: Path, tmp_path: Path) -> None:
    mirror, third = tmp_path / "mirror", tmp_path / "third"
    shutil.copytree(folder, mirror)
    shutil.copytree(folder, third)
    (path,) = folder.glob("*.journal")
    whole = path.read_bytes()
    for place in (-10, whole.index(b"wrapped_key") + 20):  # its last record; its key, which does not open then
        octets = bytearray(whole)
        octets[place] ^= 1
        path.write_bytes(octets)
        verified = witness.verify(folders=[folder, mirror])
        assert (verified.is_borne_out, "cannot be read" in str(verified)) == (True, False)
    (third / path.name).write_bytes(whole[:-200])  # whole, but not as far as the damage
    octets = bytearray(whole)
    octets[-10] ^= 1
    path.write_bytes(octets)
    assert f"cannot be read: {path}: damaged at octet" in str(witness.verify(folders=[folder, third]))


def test_numbers_of_the_journal_are_not_set_back(folder: Path) -> None:
    """A restore would pass over acts under numbers of before its backup: keys that were cut off would be good."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('keyvault_journal_number', 1000000)")
    act()
    for segment in (False, True):
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('keyvault_journal_number', 5)")
        if segment:  # another process, which has to begin another segment
            writing._last.clear()
            (path,) = folder.glob("*.journal")
            path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(JournalError, match=r"went to number 1\d+, and the database gives number \d+: its sequence"):
            act()
    assert chain.head().number == 6
