"""The audit chain: what is recorded stays, and whoever touches it is found out."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from keyvault.audit import chain as audit
from keyvault.audit.chain import Actor, AuditError, Head
from keyvault.models import AuditKey, AuditRecord

pytestmark = pytest.mark.django_db
OFFICER = Actor("officer", "192.0.2.7")


@pytest.fixture
def chain() -> list[Head]:
    return [audit.record(OFFICER, "device_key.rotate", {"keys": [n], "reason": "age"}) for n in range(5)]


def tamper(statement: str, *params: Any) -> None:
    """Change the table as someone with all rights on the database would, past the trigger."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE keyvault_auditrecord DISABLE TRIGGER keyvault_audit_append_only")
        cursor.execute(statement, params)
        cursor.execute("ALTER TABLE keyvault_auditrecord ENABLE TRIGGER keyvault_audit_append_only")


def test_the_chain_verifies_and_ends_at_its_head(chain: list[Head]) -> None:
    assert [head.number for head in chain] == [1, 2, 3, 4, 5]
    assert audit.verify() == audit.head() == chain[-1]
    for head in chain:
        audit.verify(head)


def test_an_empty_chain_verifies() -> None:
    assert audit.verify() == Head(0, audit.GENESIS)
    with pytest.raises(AuditError, match="cut off"):
        audit.verify(Head(3, bytes(32)))


@pytest.mark.parametrize("column", ["actor", "source", "act", "result"])
def test_a_changed_record_is_found(chain: list[Head], column: str) -> None:
    tamper(f"UPDATE keyvault_auditrecord SET {column} = 'x' WHERE number = 3")
    with pytest.raises(AuditError, match="record 3 was changed"):
        audit.verify()


def test_a_changed_subject_or_time_is_found(chain: list[Head]) -> None:
    tamper("UPDATE keyvault_auditrecord SET subject = jsonb_set(subject, '{reason}', '\"none\"') WHERE number = 2")
    with pytest.raises(AuditError, match="record 2"):
        audit.verify()


def test_a_record_moved_in_time_is_found(chain: list[Head]) -> None:
    tamper("UPDATE keyvault_auditrecord SET at = at + interval '1 microsecond' WHERE number = 4")
    with pytest.raises(AuditError, match="record 4"):
        audit.verify()


def test_a_removed_record_is_found(chain: list[Head]) -> None:
    tamper("DELETE FROM keyvault_auditrecord WHERE number = 2")
    with pytest.raises(AuditError, match="records 2 to 2 are missing"):
        audit.verify()


def test_a_removed_and_renumbered_record_is_found(chain: list[Head]) -> None:
    tamper("DELETE FROM keyvault_auditrecord WHERE number = 2")
    for number in (3, 4, 5):
        tamper("UPDATE keyvault_auditrecord SET number = number - 1 WHERE number = %s", number)
    with pytest.raises(AuditError, match="record 2"):
        audit.verify()


def test_a_cut_is_found_against_an_exported_head(chain: list[Head]) -> None:
    tamper("DELETE FROM keyvault_auditrecord WHERE number > 3")
    assert audit.verify() == chain[2]  # by itself, a shorter chain is a chain
    with pytest.raises(AuditError, match="ends at record 3; it went on to 5"):
        audit.verify(chain[-1])


def test_a_rewritten_end_is_found_against_an_exported_head(chain: list[Head]) -> None:
    tamper("DELETE FROM keyvault_auditrecord WHERE number > 3")
    audit.record(OFFICER, "other", {})
    audit.record(OFFICER, "acts", {})
    audit.verify()
    with pytest.raises(AuditError, match="rewritten"):
        audit.verify(chain[-1])


def test_another_audit_key_does_not_begin_in_the_middle(chain: list[Head]) -> None:
    AuditKey.objects.all().delete()
    with pytest.raises(AuditError, match="audit key is gone"):
        audit.record(OFFICER, "act", {})


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keyvault_auditrecord SET actor = 'x'",
        "DELETE FROM keyvault_auditrecord",
        "TRUNCATE keyvault_auditrecord",
    ],
)
def test_the_database_refuses_changes(chain: list[Head], change: str) -> None:
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(change)
    audit.verify()


def test_an_act_that_is_rolled_back_leaves_no_record(chain: list[Head]) -> None:
    with transaction.atomic():
        audit.record(OFFICER, "act", {})
        transaction.set_rollback(True)
    assert audit.verify() == chain[-1]


def test_the_command(chain: list[Head]) -> None:
    out = StringIO()
    call_command("audit", "verify", "--head", str(chain[-1]), stdout=out)
    assert "5 records, none changed" in out.getvalue()
    out = StringIO()
    call_command("audit", "export", stdout=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert (lines[0]["actor"], lines[0]["mac"]) == ("officer", chain[0].mac.hex())
    out = StringIO()
    call_command("audit", "head", stdout=out)
    assert out.getvalue().strip() == str(chain[-1])
    with pytest.raises(CommandError, match="number:mac"):
        call_command("audit", "verify", "--head", "nonsense")
    tamper("UPDATE keyvault_auditrecord SET actor = 'x' WHERE number = 1")
    with pytest.raises(CommandError, match="record 1 was changed"):
        call_command("audit", "verify")
    assert AuditRecord.objects.count() == 5
