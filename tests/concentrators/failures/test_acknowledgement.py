"""Acknowledging failures: one, chosen ones, or all that a filter finds; audited, and each of them once."""

from datetime import timedelta

import pytest

from concentrators.failures import acknowledgement
from concentrators.failures.acknowledgement import AcknowledgementError, acknowledge, go_on, reopen, take_back
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureSelection
from concentrators.models import Acknowledgement, Concentrator, IntegrityFailure
from keyvault.audit import chain
from keyvault.audit.chain import Actor, AuditError
from keyvault.models import AuditRecord
from tests.concentrators.fleet import NOW
from tests.factories import IntegrityFailureFactory

pytestmark = pytest.mark.django_db

WHO = Actor("alice", "192.0.2.1")
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def rows(concentrator: Concentrator) -> list[IntegrityFailure]:
    kinds = [FailureKind.MALFORMED, FailureKind.TAG_INVALID] * 3
    return [
        IntegrityFailureFactory.create(kind=kind, concentrator=concentrator, received_at=NOW + timedelta(minutes=n))
        for n, kind in enumerate(kinds)
    ]


def acknowledged() -> set[int]:
    return set(IntegrityFailure.objects.filter(is_open=False).values_list("pk", flat=True))


def test_chosen_failures_are_acknowledged_and_audited(rows: list[IntegrityFailure]) -> None:
    chosen = [rows[0].pk, rows[3].pk]
    done = acknowledge(FailureSelection(ids=chosen), WHO, " a test of ours ", LATER)
    assert (done.failures, done.is_whole) == (2, True)
    assert acknowledged() == set(chosen)
    row = Acknowledgement.objects.get(pk=done.id)
    assert (row.by, row.at, row.note) == ("alice", LATER, "a test of ours")
    record = AuditRecord.objects.latest("number")
    assert (record.act, record.actor, record.result) == ("failures.acknowledge", "alice", "a test of ours")
    assert record.subject["failures"]["ids"] == chosen
    chain.verify()


def test_what_came_after_the_look_stays_open(rows: list[IntegrityFailure]) -> None:
    acknowledge(FailureSelection(), WHO, "seen", NOW + timedelta(minutes=2))
    assert acknowledged() == {rows[0].pk, rows[1].pk}


def test_none_is_made_that_holds_for_no_failure(rows: list[IntegrityFailure]) -> None:
    chosen = FailureSelection(ids=[rows[0].pk])
    acknowledge(chosen, WHO, "first", LATER)
    for selection in (chosen, FailureSelection(ids=[0]), FailureSelection(end=NOW)):
        with pytest.raises(AcknowledgementError, match="none of these failures is open"):
            acknowledge(selection, WHO, "again", LATER)
    assert Acknowledgement.objects.count() == 1
    assert AuditRecord.objects.filter(act="failures.acknowledge").count() == 1


def test_the_first_acknowledgement_stays(rows: list[IntegrityFailure]) -> None:
    first = acknowledge(FailureSelection(ids=[rows[0].pk]), WHO, "first", LATER)
    second = acknowledge(FailureSelection(), Actor("bob", ""), "second", LATER)
    assert second.failures == len(rows) - 1
    rows[0].refresh_from_db()
    assert rows[0].acknowledgement_id == first.id


def test_many_are_acknowledged_in_batches(rows: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledgement, "_BATCH", 2)
    meant = FailureSelection(severity=Severity.CRITICAL, start=NOW, kinds=[FailureKind.TAG_INVALID])
    done = acknowledge(meant, WHO, "a storm", LATER)
    assert (done.failures, done.is_whole) == (2, False)
    IntegrityFailureFactory.create(kind=FailureKind.TAG_INVALID, received_at=LATER)
    assert go_on(done.id) == 1
    assert acknowledged() == {row.pk for row in rows if row.kind == FailureKind.TAG_INVALID}
    assert go_on(done.id) == 0


def test_an_acknowledgement_is_taken_back_within_a_day(
    rows: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgement, "_BATCH", 2)
    first = acknowledge(FailureSelection(ids=[rows[0].pk]), WHO, "right", LATER)
    wrong = acknowledge(FailureSelection(), WHO, "wrong", LATER)
    go_on(wrong.id)
    with pytest.raises(AcknowledgementError, match="older than 24 hours"):
        take_back(wrong.id, WHO, LATER + timedelta(days=1, seconds=1))
    assert reopen(wrong.id) == 0
    take_back(wrong.id, Actor("bob", ""), LATER + timedelta(hours=1))
    assert reopen(wrong.id) == len(rows) - 1
    assert acknowledged() == {rows[0].pk}
    assert Acknowledgement.objects.get(pk=wrong.id).taken_back_by == "bob"
    record = AuditRecord.objects.latest("number")
    assert (record.act, record.actor, record.subject["acknowledgement"]) == ("failures.take_back", "bob", wrong.id)
    with pytest.raises(AcknowledgementError, match="bob has taken it back already"):
        take_back(wrong.id, WHO, LATER)
    assert reopen(first.id) == 0


def test_what_was_taken_back_acknowledges_nothing_more(
    rows: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgement, "_BATCH", 2)
    done = acknowledge(FailureSelection(), WHO, "wrong", LATER)
    take_back(done.id, WHO, LATER)
    assert go_on(done.id) == 0
    assert acknowledged() == {rows[-1].pk, rows[-2].pk}


@pytest.mark.parametrize("note", ["", "  \n ", "x" * 1001])
def test_a_note_is_wanted(rows: list[IntegrityFailure], note: str) -> None:
    with pytest.raises(AcknowledgementError):
        acknowledge(FailureSelection(), WHO, note, LATER)
    assert acknowledged() == set()


def test_what_cannot_be_audited_does_not_happen(rows: list[IntegrityFailure], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AuditError("no key")

    monkeypatch.setattr(chain, "record", refuse)
    with pytest.raises(AuditError):
        acknowledge(FailureSelection(), WHO, "seen", LATER)
    assert acknowledged() == set()
    assert not Acknowledgement.objects.exists()
