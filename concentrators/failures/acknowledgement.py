"""Acknowledgement of failures: a person notes what they were. Audited; the evidence does not change."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import transaction

from ami_headend.core.sql import execute
from ami_headend.core.text import NOTE_LENGTH
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureSelection, newest
from concentrators.models import Acknowledgement
from keyvault.audit import chain

TAKE_BACK_FOR = timedelta(days=1)
_BATCH = 2_000


class AcknowledgementError(ValueError):
    """The caller's mistake: a missing or too long note, nothing to acknowledge, or too late to take it back."""


class Acknowledged(NamedTuple):
    """A new acknowledgement, how many failures it covers so far, and whether it is complete."""

    id: int
    failures: int
    is_whole: bool


def acknowledge(selection: FailureSelection, actor: chain.Actor, note: str, now: datetime) -> Acknowledged:
    """Acknowledge the open failures of a selection received before ``now``, up to one batch.

    If more are open, ``go_on`` acknowledges the others. AcknowledgementError without a note, or if none is open;
    AuditError or MasterKeyError if it cannot be audited. Then nothing is acknowledged.
    """
    note = note.strip()
    if not note:
        raise AcknowledgementError("say in a note what the failures were")
    if len(note) > NOTE_LENGTH:
        raise AcknowledgementError(f"a note has at most {NOTE_LENGTH:,} characters, not {len(note):,}")
    until = now if selection.end is None else min(selection.end, now)
    meant = _written(dataclasses.replace(selection, is_open=True, end=until, after=None))
    with transaction.atomic():
        row = Acknowledgement.objects.create(by=actor.name[:150], at=now, note=note, selection=meant)
        failures = _batch(row)
        if not failures:
            raise AcknowledgementError("none of these failures is open")
        subject = {"acknowledgement": row.pk, "failures": meant}
        chain.record(actor, "failures.acknowledge", subject, note[:250])
    return Acknowledged(row.pk, failures, failures < _BATCH)


def go_on(acknowledgement_id: int) -> int:
    """Acknowledge the remaining open failures of an acknowledgement; return how many."""
    acknowledged = 0
    while True:
        with transaction.atomic():
            row = Acknowledgement.objects.select_for_update().get(pk=acknowledgement_id)
            failures = 0 if row.taken_back_at else _batch(row)
        acknowledged += failures
        if failures < _BATCH:
            return acknowledged


def take_back(acknowledgement_id: int, actor: chain.Actor, now: datetime) -> None:
    """Take an acknowledgement back; ``reopen`` then opens its failures again.

    AcknowledgementError if that was done before or TAKE_BACK_FOR is over; AuditError or MasterKeyError if it cannot be
    audited. Then nothing is changed.
    """
    with transaction.atomic():
        row = Acknowledgement.objects.select_for_update().get(pk=acknowledgement_id)
        if row.taken_back_at is not None:
            raise AcknowledgementError(f"{row.taken_back_by} has taken it back already")
        if not can_be_taken_back(row, now):
            raise AcknowledgementError(f"it is older than {TAKE_BACK_FOR.days * 24} hours")
        row.taken_back_by, row.taken_back_at = actor.name[:150], now
        row.save(update_fields=["taken_back_by", "taken_back_at"])
        chain.record(
            actor, "failures.take_back", {"acknowledgement": row.pk, "failures": row.selection}, row.note[:250]
        )


def can_be_taken_back(row: Acknowledgement, now: datetime) -> bool:
    """Whether an acknowledgement is in force and young enough to be taken back."""
    return row.taken_back_at is None and now - row.at <= TAKE_BACK_FOR


def reopen(acknowledgement_id: int) -> int:
    """Open the failures of an acknowledgement that was taken back; return how many. May run again for the rest."""
    row = Acknowledgement.objects.get(pk=acknowledgement_id)
    if row.taken_back_at is None:
        return 0
    reopened = 0
    while True:
        failures = execute(
            """UPDATE concentrators_integrityfailure SET acknowledgement_id = NULL
               WHERE id IN (SELECT id FROM concentrators_integrityfailure
                            WHERE acknowledgement_id = %s ORDER BY id LIMIT %s FOR UPDATE)""",
            row.pk,
            _BATCH,
        )
        reopened += failures
        if failures < _BATCH:
            return reopened


def _batch(row: Acknowledgement) -> int:
    """Acknowledge the newest open failures; their rows are locked in the order of their ids."""
    found, params = newest(_read(row.selection), _BATCH)
    return execute(
        f"""UPDATE concentrators_integrityfailure SET acknowledgement_id = %s
            WHERE is_open AND id IN (SELECT id FROM concentrators_integrityfailure
                                     WHERE id IN ({found}) AND is_open ORDER BY id FOR UPDATE)""",
        row.pk,
        *params,
    )


def _written(selection: FailureSelection) -> dict[str, Any]:
    """Write a selection as JSON, without fields that are None."""
    written: dict[str, Any] = {}
    for field in dataclasses.fields(selection):
        value = getattr(selection, field.name)
        if value is None:
            continue
        if isinstance(value, datetime):
            value = value.isoformat()
        elif isinstance(value, bytes):
            value = value.hex()
        elif not isinstance(value, int | bool):
            value = list(value)
        written[field.name] = value
    return written


def _read(written: dict[str, Any]) -> FailureSelection:
    read = dict(written)
    for name, to in (
        ("kinds", lambda kinds: [FailureKind(kind) for kind in kinds]),
        ("severity", Severity),
        ("system_title", bytes.fromhex),
        ("start", datetime.fromisoformat),
        ("end", datetime.fromisoformat),
    ):
        if name in read:
            read[name] = to(read[name])
    return FailureSelection(**read)
