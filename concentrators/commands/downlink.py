"""The downlink: commands that a concentrator fetches for the meters it hears, and its receipts.

Commands of one meter under one key go in the order of their counters: the meter takes none that is older
than the last, nor answers one again. So the next is offered only once the one before has ended.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import cbor2
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from ami_headend.core import clock
from ami_headend.core.sql import execute_named, fetch_rows, int_array, octets_array
from concentrators.commands.queue import AT_ONCE, RETRY_DOUBLINGS
from concentrators.models import Command, CommandKind, CommandState
from keyvault import journal
from keyvault.device_keys import command_sealing, epochs, last_heard
from keyvault.device_keys.command_sealing import KeyCommand, PlainCommand, Sealed

OFFER_MAX = 100
REPEAT_DELIVERED = 10  # times COMMAND_RETRY_S: delivered, but not answered; offered again, later each time
REPEAT_DOUBLINGS = 5  # of that: at most every 5 h 20 min
KEYLESS_RETRY_S = 600  # nothing to seal it under now


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
    late_answers: int
    elsewhere: bool  # the meter is assigned to another concentrator
    octets: bytes | None
    kid: bytes | None = None
    counter: int | None = None
    key_version: int | None = None


def encode_offers(offers: Sequence[Offer]) -> bytes:
    """The body of GET /api/v1/commands: a CBOR sequence (RFC 8742) of [number, system title, octets]."""
    return b"".join(cbor2.dumps(list(offer), canonical=True) for offer in offers)


def offer(concentrator_id: int, limit: int, now: datetime) -> list[Offer]:
    """At most ``limit`` due commands, oldest first, to meters assigned to the concentrator or heard by it last.

    The concentrator that a meter is assigned to comes first, and has a schedule of its own: that another one
    heard the meter is a hint, which a frame overheard and posted sooner can give. A command is sealed when it
    is first offered, and committed before this returns; later it is offered octet for octet, unless the meter
    would not take these octets any more (keyvault.device_keys.command_sealing.outdated), or they tell the time.
    What another request holds is passed over; nothing is offered before a restored database has its journal
    replayed. A fixed number of queries.
    """
    with transaction.atomic(durable=True):
        due = _due(concentrator_id, min(limit, OFFER_MAX), now)
        if not due:
            return []
        due = _without_old_octets(_without_stale_keys(due, now))
        sealed = command_sealing.seal([_to_seal(row, now) for row in due if row.octets is None], now)
        octets = {row.number: row.octets for row in due if row.octets is not None}
        octets.update({number: one.octets for number, one in sealed.items()})
        _put_off([row.number for row in due if row.number not in octets], now)
        _note_offered(concentrator_id, [row for row in due if row.number in octets], now)
        _note_sealed(concentrator_id, sealed, now)
    return [Offer(row.number, row.system_title, octets[row.number]) for row in due if row.number in octets]


def receipt(concentrator_id: int, number: int, *, delivered: bool, now: datetime) -> bool:
    """What became of a command that this concentrator has fetched: passed on to the meter, or not.

    False where there is no such command. Delivered is not done: the meter has the last word. A receipt moves
    the schedule of who gave it and of nobody else; but where the meter's own concentrator failed, another one that
    hears the meter is asked at once. A command that has ended stays as it is.
    """
    execute_named(
        _DELIVERED if delivered else _FAILED,
        {"number": number, "concentrator": concentrator_id, "now": now, "at_once": AT_ONCE} | _rests(),
    )
    mine = Q(offered_to=concentrator_id) | Q(offered_elsewhere_to=concentrator_id)
    return Command.objects.filter(mine, pk=number).exists()


def _rests() -> dict[str, int]:
    """How long a command rests, in seconds and doublings: not passed on or not acknowledged, and delivered."""
    return {
        "retry_s": settings.COMMAND_RETRY_S,
        "retry_doublings": RETRY_DOUBLINGS,
        "repeat_s": REPEAT_DELIVERED * settings.COMMAND_RETRY_S,
        "repeat_doublings": REPEAT_DOUBLINGS,
    }


_MINE = """WHERE c.id = %(number)s AND c.state IN ('offered', 'delivered')
             AND %(concentrator)s::int IN (c.offered_to_id, c.offered_elsewhere_to_id)"""
_REPEAT = "%(now)s + make_interval(secs => %(repeat_s)s * 2 ^ least(greatest({attempts} - 1, 0), %(repeat_doublings)s))"
_DELIVERED = f"""
    UPDATE concentrators_command c
    SET state = 'delivered', delivered_at = %(now)s,
        next_attempt_at = CASE WHEN c.offered_to_id = %(concentrator)s
            THEN {_REPEAT.format(attempts="c.attempts")} ELSE c.next_attempt_at END,
        elsewhere_attempt_at = CASE WHEN c.offered_elsewhere_to_id = %(concentrator)s
            THEN {_REPEAT.format(attempts="c.elsewhere_attempts")} ELSE c.elsewhere_attempt_at END
    {_MINE}"""
_SOON = """%(now)s + make_interval(
    secs => %(retry_s)s * 2 ^ least(greatest(c.failures - %(at_once)s + 1, 0), %(retry_doublings)s))"""
_FAILED = f"""
    UPDATE concentrators_command c
    SET state = 'offered', failures = least(c.failures + 1, 32767), failed_at = %(now)s,
        next_attempt_at = CASE WHEN c.offered_to_id = %(concentrator)s THEN {_SOON} ELSE c.next_attempt_at END,
        elsewhere_attempt_at = CASE WHEN c.offered_elsewhere_to_id = %(concentrator)s THEN {_SOON}
            ELSE least(c.elsewhere_attempt_at, %(now)s) END
    {_MINE}"""


def offer_at_once(now: datetime) -> int:
    """Offer again what was put off for longer than anything is: the clock was ahead then. Gives how many."""
    return execute_named(
        """UPDATE concentrators_command c
           SET next_attempt_at = CASE WHEN c.next_attempt_at > n.latest THEN %(now)s ELSE c.next_attempt_at END,
               elsewhere_attempt_at = CASE WHEN c.elsewhere_attempt_at > n.latest THEN %(now)s
                                           ELSE c.elsewhere_attempt_at END
           FROM concentrators_command d, LATERAL (
               SELECT %(latest)s + make_interval(secs => CASE d.state WHEN 'queued' THEN %(keyless_s)s
                   WHEN 'delivered' THEN %(repeat_s)s * 2 ^ least(m.most, %(repeat_doublings)s)
                   ELSE %(retry_s)s * 2 ^ least(m.most, %(retry_doublings)s) END) AS latest
               FROM greatest(d.attempts, d.elsewhere_attempts, d.failures, d.late_answers) AS m(most)
           ) n
           WHERE c.id = d.id AND d.state IN ('queued', 'offered', 'delivered')
             AND greatest(d.next_attempt_at, d.elsewhere_attempt_at) > n.latest""",
        {"now": now, "latest": now + clock.DIFFERENCE_MAX, "keyless_s": KEYLESS_RETRY_S} | _rests(),
    )


# The commands of a meter under one key are a lane: key commands are one (transfer key), all others the other.
# OFFSET 0 keeps the planner on the concentrator's own meters: else it looks through the commands of all.
_OPEN_OF = """SELECT c.id FROM concentrators_command c
              WHERE c.meter_id = {meter} AND c.state IN ('queued', 'offered', 'delivered') OFFSET 0"""
_HOME, _ELSEWHERE = "c.next_attempt_at", "coalesce(c.elsewhere_attempt_at, c.next_attempt_at)"
_DUE = f"""
    WITH asked AS (SELECT %s::int AS concentrator_id, %s::timestamptz AS now),
    mine AS MATERIALIZED (
        SELECT c.id, false AS elsewhere
        FROM asked, concentrators_assignment a, LATERAL ({_OPEN_OF.format(meter="a.meter_id")}) c
        WHERE a.concentrator_id = asked.concentrator_id AND a.valid_from <= asked.now
          AND (a.valid_to IS NULL OR a.valid_to > asked.now)
        UNION
        SELECT h.id, home.mine IS NOT NULL FROM asked, (
            SELECT c.id, m.id AS meter_id, k.system_title, i.heard_at
            FROM asked, {last_heard.COUNTERS} i
            JOIN keyvault_devicekey k ON k.id = i.key_id
            JOIN meters_meter m ON m.system_title = k.system_title,
            LATERAL ({_OPEN_OF.format(meter="m.id")}) c
            WHERE i.heard_via = asked.concentrator_id OFFSET 0
        ) h, LATERAL (
            SELECT bool_or(a.concentrator_id = asked.concentrator_id) AS mine FROM concentrators_assignment a
            WHERE a.meter_id = h.meter_id AND a.valid_from <= asked.now
              AND (a.valid_to IS NULL OR a.valid_to > asked.now)
        ) home
        WHERE home.mine IS NOT TRUE AND NOT EXISTS (
            SELECT 1 FROM keyvault_devicekey o JOIN {last_heard.COUNTERS} p ON p.key_id = o.id
            WHERE o.system_title = h.system_title AND p.heard_at > h.heard_at)
    )
    SELECT c.id, m.system_title, c.kind, c.parameters, c.late_answers, mine.elsewhere,
           c.octets, c.kid, c.invocation_counter, c.key_version
    FROM asked, mine JOIN concentrators_command c ON c.id = mine.id JOIN meters_meter m ON m.id = c.meter_id
    WHERE c.state IN ('queued', 'offered', 'delivered') AND c.expires_at > asked.now
      AND CASE WHEN mine.elsewhere THEN {_ELSEWHERE} ELSE {_HOME} END <= asked.now
      AND {journal.OPEN} AND NOT EXISTS (
        SELECT 1 FROM concentrators_command o
        WHERE o.meter_id = c.meter_id AND (o.kind = 1) = (c.kind = 1) AND o.state IN ('queued', 'offered', 'delivered')
          AND o.expires_at > asked.now AND o.id < c.id)
    ORDER BY c.id LIMIT %s FOR UPDATE OF c SKIP LOCKED
"""


def _due(concentrator_id: int, limit: int, now: datetime) -> list[_Due]:
    rows = fetch_rows(_DUE, concentrator_id, now, limit)
    return [_Due(*row) for row in rows]


def _without_stale_keys(due: list[_Due], now: datetime) -> list[_Due]:
    """Note that pending keys leave. A command whose key arrived is done, one whose key was cut off is cancelled."""
    wanted = {row.system_title: row.parameters["epoch"] for row in due if row.kind == CommandKind.SET_KEY}
    if not wanted:
        return due
    pending = epochs.offered(wanted, now)
    stale = {
        row.number: row.system_title
        for row in due
        if row.kind == CommandKind.SET_KEY and row.system_title not in pending
    }
    if stale:
        arrived = epochs.arrived({title: wanted[title] for title in stale.values()})
        for state, has_arrived in ((CommandState.DONE, True), (CommandState.CANCELLED, False)):
            numbers = [number for number, title in stale.items() if (title in arrived) is has_arrived]
            Command.objects.filter(pk__in=numbers).update(state=state, ended_at=now)
    return [row for row in due if row.number not in stale]


def _without_old_octets(due: list[_Due]) -> list[_Due]:
    """A command is to be sealed anew where the meter would not take it any more, and always where it tells the time."""
    sealed = {
        row.number: (row.kid, row.counter, row.key_version)
        for row in due
        if row.kid is not None and row.counter is not None and row.key_version is not None
    }
    old = command_sealing.outdated(sealed) if sealed else set()
    old.update(row.number for row in due if row.kind == CommandKind.SET_CLOCK)
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
        case CommandKind.SET_CONCENTRATOR:
            title = bytes.fromhex(row.parameters["title"])
            return PlainCommand(row.number, row.system_title, (row.kind, row.number, title))
        case CommandKind.SET_CLOCK:
            # A meter that wants to know how old the command is has said so: it was too late for it.
            fields = (row.kind, row.number, int(now.timestamp()))
            return PlainCommand(row.number, row.system_title, fields, dated=row.late_answers > 0)
    return PlainCommand(row.number, row.system_title, (row.kind, row.number))


def _put_off(numbers: list[int], now: datetime) -> None:
    if numbers:
        later = now + timedelta(seconds=KEYLESS_RETRY_S)
        Command.objects.filter(pk__in=numbers).update(next_attempt_at=later)


def _note_offered(concentrator_id: int, offered: Sequence[_Due], now: datetime) -> None:
    """Each comes again to the same concentrator after a rest, which doubles; what others have of it stays."""
    again = "%(now)s + make_interval(secs => %(retry_s)s * 2 ^ least({attempts}, %(retry_doublings)s))"
    execute_named(
        f"""UPDATE concentrators_command c
           SET state = 'offered', offered_at = coalesce(c.offered_at, %(now)s),
               attempts = CASE WHEN n.elsewhere THEN c.attempts ELSE least(c.attempts + 1, 32767) END,
               offered_to_id = CASE WHEN n.elsewhere THEN c.offered_to_id ELSE %(concentrator)s END,
               next_attempt_at = CASE WHEN n.elsewhere THEN c.next_attempt_at
                                      ELSE {again.format(attempts="c.attempts")} END,
               elsewhere_attempts = CASE WHEN n.elsewhere THEN least(c.elsewhere_attempts + 1, 32767)
                                         ELSE c.elsewhere_attempts END,
               offered_elsewhere_to_id = CASE WHEN n.elsewhere THEN %(concentrator)s ELSE c.offered_elsewhere_to_id END,
               elsewhere_attempt_at = CASE WHEN n.elsewhere THEN {again.format(attempts="c.elsewhere_attempts")}
                                           ELSE coalesce(c.elsewhere_attempt_at, c.next_attempt_at) END
           FROM unnest(%(numbers)s::bigint[], %(elsewhere)s::bool[]) AS n(id, elsewhere) WHERE c.id = n.id""",
        {
            "concentrator": concentrator_id,
            "now": now,
            "numbers": int_array(row.number for row in offered),
            "elsewhere": "{" + ",".join("t" if row.elsewhere else "f" for row in offered) + "}",
        }
        | _rests(),
    )


def _note_sealed(concentrator_id: int, sealed: dict[int, Sealed], now: datetime) -> None:
    if not sealed:
        return
    new = sorted(sealed)
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
