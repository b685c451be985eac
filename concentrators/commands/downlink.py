"""The downlink: commands that a concentrator fetches for the meters it hears, and its receipts.

The commands of one meter under one key leave in the order of their counters: the meter drops a command that is older
than the last one, and does not answer a command twice. So the next one is offered only when the previous one has ended.
One overtakes the others under its key: that which tells the meter its concentrator (_DUE).
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
REPEAT_DELIVERED = 10  # times COMMAND_RETRY_S: delivered, not answered; offered again, later each time
REPEAT_DOUBLINGS = 5  # of doublings: at most every 5 h 20 min
KEYLESS_RETRY_S = 600  # no key to seal it under now


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
    """Encode the body of GET /api/v1/commands: a CBOR sequence (RFC 8742) of [number, system title, octets]."""
    return b"".join(cbor2.dumps(list(offer), canonical=True) for offer in offers)


def offer(concentrator_id: int, limit: int, now: datetime) -> list[Offer]:
    """Offer at most ``limit`` due commands, oldest first, to meters that the concentrator has, or heard last.

    Only to meters in service: of others no answer would be taken, and a meter of another cell is commanded there. The
    concentrator that a meter is assigned to has priority, and a schedule of its own: that another one heard the
    meter is only a hint, which whoever overhears a frame and posts it first can forge; if it holds keys and can use
    them, it alone gets commands that bring one. A command is sealed when it is first offered, and committed before this
    returns. Later the same octets are offered, unless the meter would drop them
    (keyvault.device_keys.command_sealing.outdated), or they contain the time. Rows that another request has locked are
    skipped; nothing is offered while a restored database waits for the replay of the journal. A fixed number of
    queries.
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
    """Record whether a concentrator has delivered a command that it fetched; return False if there is none.

    A delivered command is not done: only the meter can say that. A receipt changes the schedule of its concentrator
    only; but if the concentrator of the meter failed, another one that hears the meter may have the command at once. A
    command that has ended stays as it is.
    """
    execute_named(
        _DELIVERED if delivered else _FAILED,
        {"number": number, "concentrator": concentrator_id, "now": now, "at_once": AT_ONCE} | _rests(),
    )
    mine = Q(offered_to=concentrator_id) | Q(offered_elsewhere_to=concentrator_id)
    return Command.objects.filter(mine, pk=number).exists()


def _rests() -> dict[str, int]:
    """Return the pause of a command, in seconds and doublings: for one that was not delivered, and for one that was."""
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
    """Offer commands at once whose pause is impossibly long, because the clock was ahead; return how many."""
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


# The commands of a meter under one key are a lane: key commands (under the transfer key) are one, all others another.
# In its lane, the command that names the meter's concentrator (7) goes before the others once its time has come: until
# then the meter tags its answers for another concentrator, and its own one drops them.
# A key goes to the meter over its own concentrator alone where that holds keys: that fetches the hop keys first, and
# would drop what the meter sends under a key that came over another one. Not where that is shut out or its own keys are
# cut off: it fetches no hop keys, and its meters need new keys all the more.
# OFFSET 0 makes the planner begin with the meters of the concentrator, not with the commands of all. In CASE it cannot
# seek commands by their end: it does not know how many open ones a new rollout has.
_OPEN_OF = """SELECT c.id, c.kind FROM concentrators_command c
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
            SELECT c.id, c.kind, m.id AS meter_id, k.system_title, i.heard_at
            FROM asked, {last_heard.COUNTERS} i
            JOIN keyvault_devicekey k ON k.id = i.key_id
            JOIN meters_meter m ON m.system_title = k.system_title,
            LATERAL ({_OPEN_OF.format(meter="m.id")}) c
            WHERE i.heard_via = asked.concentrator_id OFFSET 0
        ) h, LATERAL (
            SELECT bool_or(a.concentrator_id = asked.concentrator_id) AS mine,
                   bool_or(r.is_active AND EXISTS (
                       SELECT 1 FROM keyvault_devicekey t
                       WHERE t.system_title = r.system_title AND t.epoch > 0 AND t.state = 'active')) AS holds_keys
            FROM concentrators_assignment a JOIN concentrators_concentrator r ON r.id = a.concentrator_id
            WHERE a.meter_id = h.meter_id AND a.valid_from <= asked.now
              AND (a.valid_to IS NULL OR a.valid_to > asked.now)
        ) home
        WHERE home.mine IS NOT TRUE AND NOT (h.kind = 1 AND coalesce(home.holds_keys, false)) AND NOT EXISTS (
            SELECT 1 FROM keyvault_devicekey o JOIN {last_heard.COUNTERS} p ON p.key_id = o.id
            WHERE o.system_title = h.system_title AND p.heard_at > h.heard_at)
    )
    SELECT c.id, m.system_title, c.kind, c.parameters, c.late_answers, mine.elsewhere,
           c.octets, c.kid, c.invocation_counter, c.key_version
    FROM asked, mine JOIN concentrators_command c ON c.id = mine.id JOIN meters_meter m ON m.id = c.meter_id
    WHERE c.id = ANY(ARRAY(SELECT id FROM mine)) AND c.state IN ('queued', 'offered', 'delivered')
      AND CASE WHEN c.expires_at <= asked.now THEN false WHEN mine.elsewhere THEN {_ELSEWHERE} <= asked.now
               ELSE {_HOME} <= asked.now END
      AND m.status = 'commissioned'
      AND {journal.OPEN} AND NOT EXISTS (
        SELECT 1 FROM concentrators_command o
        WHERE o.meter_id = c.meter_id AND (o.kind = 1) = (c.kind = 1) AND o.state IN ('queued', 'offered', 'delivered')
          AND CASE WHEN o.expires_at <= asked.now THEN false
                   WHEN o.kind <> 7 THEN c.kind <> 7 AND o.id < c.id
                   WHEN c.kind = 7 THEN o.id < c.id
                   ELSE o.octets IS NOT NULL OR o.next_attempt_at <= asked.now END)
    ORDER BY c.id LIMIT %s FOR UPDATE OF c SKIP LOCKED
"""


def _due(concentrator_id: int, limit: int, now: datetime) -> list[_Due]:
    rows = fetch_rows(_DUE, concentrator_id, now, limit)
    return [_Due(*row) for row in rows]


def _without_stale_keys(due: list[_Due], now: datetime) -> list[_Due]:
    """Note that pending keys leave; end commands whose key has arrived (done) or was cut off (cancelled)."""
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
    """Drop the octets of commands that the meter would not take any more, or that contain the time."""
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
            # The meter needs to know the age of the command: it has answered that it came too late.
            fields = (row.kind, row.number, int(now.timestamp()))
            return PlainCommand(row.number, row.system_title, fields, dated=row.late_answers > 0)
    return PlainCommand(row.number, row.system_title, (row.kind, row.number))


def _put_off(numbers: list[int], now: datetime) -> None:
    if numbers:
        later = now + timedelta(seconds=KEYLESS_RETRY_S)
        Command.objects.filter(pk__in=numbers).update(next_attempt_at=later)


def _note_offered(concentrator_id: int, offered: Sequence[_Due], now: datetime) -> None:
    """Note the offers: each comes to the same concentrator again after a pause, which doubles."""
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
