"""Events that wait: claimed in batches, read from their rows in a fixed number of queries, and removed once sent."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import F, Q
from django.db.models.expressions import RawSQL

from ami_headend.alerts.models import AlertStep
from ami_headend.core import clock
from ami_headend.core.sql import chunks, execute
from ami_headend.siem import events
from ami_headend.siem.events import Event
from ami_headend.siem.models import Pending, Shipping, Source
from ami_headend.signin.models import SignIn
from concentrators.models import FailureTally
from keyvault.models import AuditRecord

BATCH = 500
LEASE = timedelta(seconds=90)  # longer than one exchange with the receiver
_FIRST, _MOST = timedelta(seconds=5), timedelta(seconds=60)


class Backlog(NamedTuple):
    """How many events wait, since when the oldest does, and how sending stands."""

    waiting: int
    oldest_at: datetime | None
    shipping: Shipping


def switch(*, is_on: bool) -> bool:
    """Begin or stop to note events; return whether they are noted."""
    Shipping.objects.filter(is_on=not is_on).update(is_on=is_on)
    return is_on


@transaction.atomic
def claim(now: datetime) -> list[Pending]:
    """Claim the events that are due, the oldest first; none while another worker sends, or after a failure.

    The claim is a lease: a worker that dies with it sends nothing, and the events are free again after LEASE.
    """
    shipping = Shipping.objects.select_for_update(skip_locked=True).filter(is_on=True).first()
    if shipping is None or _is_ahead(shipping.leased_until, LEASE, now) or _is_ahead(shipping.due_at, _MOST, now):
        return []
    due = Q(due_at__lte=now) | Q(due_at__gt=clock.latest_due(_MOST, now))
    rows = list(Pending.objects.filter(due).order_by("due_at", "source", "key")[:BATCH])
    if rows:
        shipping.leased_until = now + LEASE
        shipping.save(update_fields=["leased_until"])
    return rows


@transaction.atomic
def note_sent(rows: Sequence[Pending], claimed_at: datetime, now: datetime) -> None:
    """Remove events that the receiver has read, unless their rows have changed meanwhile: those are sent again.

    Nothing is removed once the lease is another worker's: a row that has come back since looks like the one sent.
    """
    ours = Shipping.objects.filter(leased_until=claimed_at + LEASE)
    if not ours.update(
        sent=F("sent") + len(rows), sent_at=now, attempts=0, due_at=None, leased_until=None, last_error=""
    ):
        return
    columns = zip(*sorted((row.source, row.key, row.version) for row in rows), strict=True)
    # Rows that a transaction is changing are skipped, not waited for: that one may wait for others of these.
    execute(
        """DELETE FROM siem_pending p USING (
               SELECT q.source, q.key FROM siem_pending q
               JOIN unnest(%s::text[], %s::text[], %s::bigint[]) AS n(source, key, version)
                 ON (q.source, q.key, q.version) = (n.source, n.key, n.version) FOR UPDATE OF q SKIP LOCKED) AS read
           WHERE (p.source, p.key) = (read.source, read.key)""",
        *map(list, columns),
    )


@transaction.atomic
def note_failure(why: str, claimed_at: datetime, now: datetime) -> None:
    """Put the next attempt off, longer each time, up to a minute; everything stays.

    Nothing is noted once the lease is another worker's: that one sends, or says itself why it cannot.
    """
    shipping = Shipping.objects.select_for_update().filter(leased_until=claimed_at + LEASE).first()
    if shipping is None:
        return
    wait = min(_MOST, _FIRST * 2 ** min(shipping.attempts, 8))
    shipping.attempts, shipping.due_at, shipping.leased_until = shipping.attempts + 1, now + wait, None
    shipping.last_error = why[:250]
    shipping.save(update_fields=["attempts", "due_at", "leased_until", "last_error"])


def events_of(rows: Iterable[Pending]) -> list[Event]:
    """Return the events of claimed rows in their order; one whose row was deleted for age is left out."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        keys.setdefault(row.source, []).append(row.key)
    found = {source: _READERS[Source(source)](of_source) for source, of_source in keys.items()}
    return [found[row.source][row.key] for row in rows if row.key in found[row.source]]


def backlog() -> Backlog:
    """Return what waits; one statement."""
    found: Any = Shipping.objects.annotate(
        waiting=RawSQL("(SELECT count(*) FROM siem_pending)", ()),
        oldest_at=RawSQL("(SELECT min(noted_at) FROM siem_pending)", ()),
    ).get()
    return Backlog(found.waiting, found.oldest_at, found)


@transaction.atomic
def again_from(number: int) -> int:
    """Note the records of the audit chain from a number on to be sent (again); return how many."""
    numbers = list(AuditRecord.objects.filter(number__gte=number).values_list("number", flat=True))
    for part in chunks(numbers):
        rows = [Pending(source=Source.AUDIT, key=str(one), version=1) for one in part]
        Pending.objects.bulk_create(rows, ignore_conflicts=True)
    return len(numbers)


def _is_ahead(until: datetime | None, longest: timedelta, now: datetime) -> bool:
    """Whether a time put off has not come; one further ahead than it can be put off was set by a wrong clock."""
    return until is not None and not clock.is_due(until, longest, now)


def _audit(keys: Sequence[str]) -> dict[str, Event]:
    rows = AuditRecord.objects.filter(number__in=map(int, keys))
    return {str(row.number): events.of_audit(row) for row in rows}


def _alerts(keys: Sequence[str]) -> dict[str, Event]:
    rows = AlertStep.objects.filter(pk__in=map(int, keys)).select_related("alert__rule")
    return {str(row.pk): events.of_alert(row) for row in rows}


def _sign_ins(keys: Sequence[str]) -> dict[str, Event]:
    return {str(row.pk): events.of_sign_in(row) for row in SignIn.objects.filter(pk__in=map(int, keys))}


def _rejected(keys: Sequence[str]) -> dict[str, Event]:
    parts = [key.split(":") for key in keys]
    hours = [datetime.fromtimestamp(int(hour), UTC) for _, _, hour in parts]
    rows = FailureTally.objects.filter(
        concentrator__in={int(pk) for pk, _, _ in parts}, kind__in={kind for _, kind, _ in parts}, hour__in=set(hours)
    ).select_related("concentrator")
    return {
        f"{row.concentrator_id}:{row.kind}:{int(row.hour.timestamp())}": events.of_rejected(row)
        for row in rows
        if row.failures
    }


_READERS: Mapping[Source, Callable[[Sequence[str]], dict[str, Any]]] = {
    Source.AUDIT: _audit,
    Source.ALERT: _alerts,
    Source.SIGN_IN: _sign_ins,
    Source.REJECTED: _rejected,
}
