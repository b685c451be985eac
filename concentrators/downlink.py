"""The downlink: commands that a concentrator fetches for the meters it hears, and its receipts.

Commands of one meter under one key go in the order of their counters: the meter takes none that is older
than the last. So the next is offered only once the one before was delivered, or has ended.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import cbor2
from django.conf import settings
from django.db import transaction

from ami_headend.core import clock
from concentrators.models import Command, CommandKind, CommandState
from keyvault import downlink, epochs, journal
from keyvault.downlink import KeyCommand, PlainCommand, Sealed
from keyvault.sql import execute, fetch_rows, int_array, octets_array

OFFER_MAX = 100
RETRY_DOUBLINGS = 8  # of COMMAND_RETRY_S, one with each attempt
REPEAT_DELIVERED_S = 6 * 3600  # delivered, but not answered: offered again, octet for octet
KEYLESS_RETRY_S = 600  # nothing to seal it under now
CLOCK_GOOD_FOR_S = 60  # a clock command that is older would set the clock wrong


class Offer(NamedTuple):
    """A command for a concentrator to pass on: its number, the meter's system title, and the sealed frame."""

    number: int
    system_title: bytes
    octets: bytes


class _Due(NamedTuple):
    """A locked row that is to be offered."""

    number: int
    system_title: bytes
    kind: int
    parameters: dict[str, Any]
    octets: bytes | None
    kid: bytes | None = None
    key_version: int | None = None


def encode_offers(offers: Sequence[Offer]) -> bytes:
    """The body of GET /api/v1/commands: a CBOR sequence (RFC 8742) of [number, system title, octets]."""
    return b"".join(cbor2.dumps(list(offer), canonical=True) for offer in offers)


def offer(concentrator_id: int, limit: int, now: datetime) -> list[Offer]:
    """At most ``limit`` due commands, oldest first, to meters assigned to the concentrator or heard by it last.

    A command is sealed when it is first offered, and committed before this returns; later it is offered
    octet for octet, unless the key that it is under was cut off, retired or replaced since. What another
    request holds is passed over; nothing is offered before a restored database has its journal replayed.
    A fixed number of queries.
    """
    with transaction.atomic(durable=True):
        due = _due(concentrator_id, min(limit, OFFER_MAX), now)
        if not due:
            return []
        due = _without_old_octets(_without_stale_keys(due, now))
        sealed = downlink.seal([_to_seal(row, now) for row in due if row.octets is None], now)
        octets = {row.number: row.octets for row in due if row.octets is not None}
        octets.update({number: one.octets for number, one in sealed.items()})
        _put_off([row.number for row in due if row.number not in octets], now)
        _note_offered(concentrator_id, octets, sealed, now)
    return [Offer(row.number, row.system_title, octets[row.number]) for row in due if row.number in octets]


def receipt(concentrator_id: int, number: int, *, delivered: bool, now: datetime) -> bool:
    """What became of a command that this concentrator was the last to fetch: passed on to the meter, or not.

    False where there is no such command. Delivered is not done: the meter has the last word. A command
    that has ended stays as it is.
    """
    mine = Command.objects.filter(pk=number, offered_to=concentrator_id)
    if delivered:
        waiting = mine.filter(state__in=[CommandState.OFFERED, CommandState.DELIVERED])
        moved = waiting.update(
            state=CommandState.DELIVERED,
            delivered_at=now,
            next_attempt_at=now + timedelta(seconds=REPEAT_DELIVERED_S),
        )
        return bool(moved) or mine.exists()
    return mine.exists()  # it is offered again after its back-off, which counts from the offer


def offer_at_once(now: datetime) -> int:
    """Offer again what was put off for longer than anything is: the clock was ahead then. Gives how many."""
    return execute(
        """UPDATE concentrators_command SET next_attempt_at = %s
           WHERE state IN ('queued', 'offered', 'delivered') AND next_attempt_at > %s + make_interval(secs =>
                 CASE state WHEN 'queued' THEN %s WHEN 'delivered' THEN %s ELSE %s * 2 ^ least(attempts, %s) END)""",
        now,
        now + clock.DIFFERENCE_MAX,
        KEYLESS_RETRY_S,
        REPEAT_DELIVERED_S,
        settings.COMMAND_RETRY_S,
        RETRY_DOUBLINGS,
    )


# The commands of a meter under one key are a lane: key commands are one (transfer key), all others the other.
# OFFSET 0 keeps the planner on the concentrator's own meters: else it looks through the commands of all.
_OPEN_OF = """SELECT c.id FROM concentrators_command c
              WHERE c.meter_id = {meter} AND c.state IN ('queued', 'offered', 'delivered')
                AND c.next_attempt_at <= asked.now OFFSET 0"""
_DUE = f"""
    WITH asked AS (SELECT %s::int AS concentrator_id, %s::timestamptz AS now),
    mine AS MATERIALIZED (
        SELECT c.id FROM asked, concentrators_assignment a, LATERAL ({_OPEN_OF.format(meter="a.meter_id")}) c
        WHERE a.concentrator_id = asked.concentrator_id AND a.valid_from <= asked.now
          AND (a.valid_to IS NULL OR a.valid_to > asked.now)
        UNION
        SELECT h.id FROM (
            SELECT c.id, k.system_title, i.key_id, i.heard_at
            FROM asked, keyvault_invocationcounter i
            JOIN keyvault_devicekey k ON k.id = i.key_id
            JOIN meters_meter m ON m.system_title = k.system_title,
            LATERAL ({_OPEN_OF.format(meter="m.id")}) c
            WHERE i.heard_via = asked.concentrator_id OFFSET 0
        ) h
        WHERE NOT EXISTS (
            SELECT 1 FROM keyvault_devicekey o JOIN keyvault_invocationcounter p ON p.key_id = o.id
            WHERE o.system_title = h.system_title AND o.id <> h.key_id AND p.heard_at > h.heard_at)
    )
    SELECT c.id, m.system_title, c.kind, c.parameters, c.octets, c.kid, c.key_version
    FROM asked, mine JOIN concentrators_command c ON c.id = mine.id JOIN meters_meter m ON m.id = c.meter_id
    WHERE c.state IN ('queued', 'offered', 'delivered') AND c.next_attempt_at <= asked.now AND c.expires_at > asked.now
      AND {journal.OPEN} AND NOT EXISTS (
        SELECT 1 FROM concentrators_command o
        WHERE o.meter_id = c.meter_id AND (o.kind = 1) = (c.kind = 1) AND o.state IN ('queued', 'offered', 'delivered')
          AND o.expires_at > asked.now
          AND (o.id < c.id AND o.state <> 'delivered' OR o.id > c.id AND o.octets IS NOT NULL))
    ORDER BY c.id LIMIT %s FOR UPDATE OF c SKIP LOCKED
"""


def _due(concentrator_id: int, limit: int, now: datetime) -> list[_Due]:
    rows = fetch_rows(_DUE, concentrator_id, now, limit)
    return [_Due(*row) for row in rows]


def _without_stale_keys(due: list[_Due], now: datetime) -> list[_Due]:
    """Note that pending keys leave; a command whose key is pending no more (arrived, or compromised) is cancelled."""
    wanted = {row.system_title: row.parameters["epoch"] for row in due if row.kind == CommandKind.SET_KEY}
    if not wanted:
        return due
    pending = epochs.offered(wanted, now)
    stale = [row.number for row in due if row.kind == CommandKind.SET_KEY and row.system_title not in pending]
    if stale:
        Command.objects.filter(pk__in=stale).update(state=CommandState.CANCELLED, ended_at=now)
    return [row for row in due if row.number not in set(stale)]


def _without_old_octets(due: list[_Due]) -> list[_Due]:
    """A command that the meter is not to open any more is to be sealed anew."""
    sealed = {
        row.number: (row.kid, row.key_version) for row in due if row.kid is not None and row.key_version is not None
    }
    old = downlink.without_its_key(sealed) if sealed else ()
    return [row._replace(octets=None) if row.number in old else row for row in due]


def _to_seal(row: _Due, now: datetime) -> KeyCommand | PlainCommand:
    match CommandKind(row.kind):
        case CommandKind.SET_KEY:
            return KeyCommand(row.number, row.system_title, row.parameters["epoch"])
        case CommandKind.RESEND:
            more = (row.parameters["from_s"], row.parameters["to_s"])
            return PlainCommand(row.number, row.system_title, (row.kind, row.number, *more))
        case CommandKind.SET_INTERVAL:
            more = (row.parameters["interval_minutes"], row.parameters["from_s"])
            return PlainCommand(row.number, row.system_title, (row.kind, row.number, *more))
        case CommandKind.SET_CLOCK:
            return PlainCommand(row.number, row.system_title, (row.kind, row.number, int(now.timestamp())))
    return PlainCommand(row.number, row.system_title, (row.kind, row.number))


def _put_off(numbers: list[int], now: datetime) -> None:
    if numbers:
        later = now + timedelta(seconds=KEYLESS_RETRY_S)
        Command.objects.filter(pk__in=numbers).update(next_attempt_at=later)


def _note_offered(concentrator_id: int, octets: dict[int, bytes], sealed: dict[int, Sealed], now: datetime) -> None:
    numbers = sorted(octets)
    new = sorted(sealed)
    execute(
        """UPDATE concentrators_command c
           SET state = 'offered', attempts = least(c.attempts + 1, 32767), offered_to_id = %s,
               offered_at = coalesce(c.offered_at, %s),
               next_attempt_at = %s + make_interval(secs => %s * 2 ^ least(c.attempts, %s)),
               expires_at = CASE WHEN c.kind = %s THEN least(c.expires_at, %s) ELSE c.expires_at END
           WHERE c.id = ANY(%s::bigint[])""",
        concentrator_id,
        now,
        now,
        settings.COMMAND_RETRY_S,
        RETRY_DOUBLINGS,
        CommandKind.SET_CLOCK.value,
        now + timedelta(seconds=CLOCK_GOOD_FOR_S),
        int_array(numbers),
    )
    if not new:
        return
    rows = fetch_rows(
        """UPDATE concentrators_command c
           SET octets = n.octets, kid = n.kid, invocation_counter = n.counter, key_version = n.key_version
           FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[], %s::bigint[], %s::int[])
                AS n(id, octets, kid, counter, key_version), meters_meter m
           WHERE c.id = n.id AND m.id = c.meter_id
           RETURNING c.id, m.system_title, c.kind, c.parameters, c.created_by, extract(epoch FROM c.created_at)::bigint,
                     extract(epoch FROM c.expires_at)::bigint, c.octets, c.kid, c.invocation_counter""",
        int_array(new),
        octets_array(sealed[number].octets for number in new),
        octets_array(sealed[number].kid for number in new),
        int_array(sealed[number].counter for number in new),
        int_array(sealed[number].key_version for number in new),
    )
    journal.append("commands", [concentrator_id, int(now.timestamp()), rows])
