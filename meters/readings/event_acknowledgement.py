"""Acknowledgement of meter events: a person notes what they were. Audited; the events themselves do not change."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import transaction

from ami_headend.core.sql import execute, int_array
from ami_headend.core.text import NOTE_LENGTH
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.code_models import EventAcknowledgement
from meters.codes.event_codes import EventCodes
from meters.readings import event_queries
from meters.readings.event_queries import EventSelection

AT_ONCE = 2_000  # events of one act


class AcknowledgeError(ValueError):
    """The caller's mistake: no note, one that is too long, or nothing to acknowledge."""


class Acknowledged(NamedTuple):
    """A new acknowledgement, and how many events it covers. ``is_whole``: none of the selection is left."""

    id: int
    events: int
    is_whole: bool


def acknowledge(event_ids: Sequence[int], actor: Actor, note: str, now: datetime) -> Acknowledged:
    """Acknowledge open events by their ids. AcknowledgeError, or AuditError or MasterKeyError: then nothing is done."""
    return _acknowledge("id = ANY(%s::bigint[])", [int_array(event_ids)], actor, note, now)


def acknowledge_all(
    selection: EventSelection, codes: EventCodes, actor: Actor, note: str, now: datetime
) -> Acknowledged:
    """Acknowledge the newest open events of a selection, AT_ONCE at most. Errors as of ``acknowledge``."""
    return _acknowledge(*event_queries.where(selection, codes), actor, note, now)


def _acknowledge(condition: str, params: Sequence[object], actor: Actor, note: str, now: datetime) -> Acknowledged:
    note = note.strip()
    if not note:
        raise AcknowledgeError("say in a note what the events were")
    if len(note) > NOTE_LENGTH:
        raise AcknowledgeError(f"a note has at most {NOTE_LENGTH:,} characters, not {len(note):,}")
    with transaction.atomic():
        row = EventAcknowledgement.objects.create(by=actor.name[:150], at=now, note=note, events=0)
        row.events = execute(
            f"""UPDATE meters_meterevent SET acknowledgement_id = %s WHERE id IN (
                    SELECT id FROM meters_meterevent WHERE {condition} AND acknowledgement_id IS NULL
                    ORDER BY captured_at DESC, id DESC LIMIT %s FOR UPDATE)""",
            row.pk,
            *params,
            AT_ONCE,
        )
        if not row.events:
            raise AcknowledgeError("none of these events is open")
        row.save(update_fields=["events"])
        chain.record(actor, "events.acknowledge", {"acknowledgement": row.pk, "events": row.events}, note[:250])
    return Acknowledged(row.pk, row.events, row.events < AT_ONCE)
