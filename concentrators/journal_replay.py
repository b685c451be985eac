"""What a restored database has to be told of concentrators and commands from the key journal."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from ami_headend.core.sql import execute, fetch_rows
from ami_headend.core.text import counted
from concentrators.commands import concentrator_titles
from concentrators.feed import eras
from concentrators.fleet import cells
from concentrators.models import CommandKind, Concentrator, ConcentratorToken, RotationWave, WaveState
from keyvault.journal.replay import Apply
from keyvault.journal.replay_keys import move_past
from keyvault.models import KeyState


class AccessReplayer:
    """Who was let in and shut out, and the commands that left."""

    def __init__(self) -> None:
        self._cut_off: set[bytes] = set()  # titles of devices whose keys were

    @property
    def kinds(self) -> Mapping[str, Apply]:
        return {
            "state": lambda record: self._note_cut_off(*record.body),
            "concentrator": lambda record: _concentrator(*record.body),
            "token_issued": lambda record: _token_issued(*record.body),
            "token_revoked": lambda record: _token_revoked(*record.body),
            "commands": lambda record: _commands(*record.body),
            eras.RECORD: lambda record: eras.replay(*record.body),
        }

    def conclude(self, now: datetime) -> list[str]:
        notes = []
        _end_what_arrived()
        if told := _tell_homes(now):
            notes.append(
                counted(
                    told,
                    "meter that was told another concentrator is told the one that it belongs to",
                    "meters that were told another concentrator are told the one that they belong to",
                )
            )
        if given := cells.give_away(now):
            notes.append(
                counted(
                    given,
                    "meter is of a concentrator that was moved to another cell, and was given to it",
                    "meters are of concentrators that were moved to another cell, and were given to it",
                )
            )
        if leaked := Concentrator.objects.filter(system_title__in=self._cut_off).order_by("name"):
            names = ", ".join(one.name for one in leaked)
            notes.append(
                f"this database did not know that keys of concentrators were cut off: {names}. Unless it was done "
                "since, begin rotations of their meters: manage.py rotate_device_keys begin --concentrator NAME"
            )
        if paused := RotationWave.objects.filter(state=WaveState.RUNNING).update(state=WaveState.PAUSED):
            notes.append(
                f"{counted(paused, 'rotation wave is', 'rotation waves are')} paused: "
                "manage.py rotate_device_keys resume --wave N, or cancel"
            )
        meterless = fetch_rows(
            """SELECT count(DISTINCT k.system_title) FROM keyvault_devicekey k
               WHERE NOT EXISTS (SELECT 1 FROM meters_meter m WHERE m.system_title = k.system_title)
                 AND NOT EXISTS (SELECT 1 FROM concentrators_concentrator c WHERE c.system_title = k.system_title)"""
        )[0][0]
        if meterless:
            notes.append(
                f"{counted(meterless, 'device has', 'devices have')} keys, but no meter: "
                "import again what this database lacks (manage.py import_meters), then "
                "manage.py verify_again --all-waiting"
            )
        return notes

    def _note_cut_off(self, state: str, keys: Sequence[Sequence[Any]]) -> None:
        if state == KeyState.COMPROMISED:
            self._cut_off.update(key[0] for key in keys)


def _concentrator(number: int, name: str, is_active: bool, title: bytes | None = None, moved_to: str = "") -> None:
    """A concentrator as it was saved; one of its name or title under another id was never committed."""
    others = Concentrator.objects.exclude(pk=number)
    for ghost in others.filter(name=name):
        Concentrator.objects.filter(pk=ghost.pk).update(name=f"{name[:100]} ({ghost.pk})", is_active=False)
    if title is not None:
        others.filter(system_title=title).update(system_title=None)
    defaults = {"name": name, "is_active": is_active, "system_title": title, "moved_to": moved_to}
    Concentrator.objects.update_or_create(pk=number, defaults=defaults)
    move_past("concentrators_concentrator", number)


def _token_issued(
    concentrator_id: int, name: str, number: int, digest: bytes, label: str, created_s: int, until_s: int | None
) -> None:
    concentrator = (
        Concentrator.objects.filter(pk=concentrator_id).first() or Concentrator.objects.filter(name=name).first()
    )
    if concentrator is None:
        concentrator = Concentrator.objects.create(pk=concentrator_id, name=name)
        move_past("concentrators_concentrator", concentrator_id)
    defaults: dict[str, Any] = {
        "concentrator": concentrator,
        "label": label,
        "expires_at": None if until_s is None else datetime.fromtimestamp(until_s, UTC),
    }
    move_past("concentrators_concentratortoken", number)
    if not ConcentratorToken.objects.filter(pk=number).exists():
        defaults["pk"] = number
    token, is_new = ConcentratorToken.objects.get_or_create(digest=digest, defaults=defaults)
    if is_new:  # its time of making is set by the model
        ConcentratorToken.objects.filter(pk=token.pk).update(created_at=datetime.fromtimestamp(created_s, UTC))


def _token_revoked(digest: bytes, at_s: int) -> None:
    execute(
        """UPDATE concentrators_concentratortoken SET revoked_at = coalesce(revoked_at, to_timestamp(%s))
           WHERE digest = %s""",
        at_s,
        digest,
    )


def _commands(concentrator_id: int, at_s: int, rows: Sequence[Sequence[Any]]) -> None:
    """Commands that were sealed and given to a concentrator: as they were, octet for octet, open until answered.

    Their meters know them by their numbers: no other command may have one of those. They are due again, by the time
    of the record: all that is compared with it is of the head-end's clock, which need not be the database's.
    """
    move_past("concentrators_command", max(row[0] for row in rows))
    numbers, titles, kinds, parameters, by, created, expires, octets, kids, counters = (
        list(column) for column in zip(*rows, strict=True)
    )
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO concentrators_command AS c (id, meter_id, kind, parameters, created_by, created_at,
                   expires_at, octets, kid, invocation_counter, key_version, state, attempts, offered_at,
                   offered_to_id, next_attempt_at)
               SELECT n.id, m.id, n.kind, n.parameters, n.created_by, to_timestamp(n.created), to_timestamp(n.expires),
                      n.octets, n.kid, n.counter,
                      (SELECT k.version FROM keyvault_devicekey k  -- as of this record: later ones may move it
                       WHERE k.system_title = n.title AND k.epoch = get_byte(n.kid, 8) * 256 + get_byte(n.kid, 9)),
                      'offered', 1, to_timestamp(%s),
                      (SELECT d.id FROM concentrators_concentrator d WHERE d.id = %s), to_timestamp(%s)
               FROM unnest(%s::bigint[], %s::bytea[], %s::int[], %s::jsonb[], %s::text[], %s::bigint[], %s::bigint[],
                           %s::bytea[], %s::bytea[], %s::bigint[])
                    AS n(id, title, kind, parameters, created_by, created, expires, octets, kid, counter)
               JOIN meters_meter m ON m.system_title = n.title
               ON CONFLICT (id) DO UPDATE
               SET octets = excluded.octets, kid = excluded.kid, invocation_counter = excluded.invocation_counter,
                   key_version = excluded.key_version,
                   offered_at = coalesce(c.offered_at, excluded.offered_at), offered_to_id = excluded.offered_to_id,
                   expires_at = CASE WHEN c.state = 'held' THEN excluded.expires_at ELSE c.expires_at END,
                   state = CASE WHEN c.state IN ('held', 'queued') THEN 'offered' ELSE c.state END""",
            [
                *(at_s, concentrator_id, at_s, numbers, titles, kinds),
                *([json.dumps(one) for one in parameters], by, created, expires, octets, kids, counters),
            ],
        )


def _end_what_arrived() -> None:
    """Key commands whose key a frame has proven to be with its meter are done, as they were before the restore.

    The frame is forgotten, and none under that key says it again: the command would expire, and count as a failure.
    """
    execute(
        """UPDATE concentrators_command c SET state = 'done', ended_at = k.activated_at
           FROM meters_meter m JOIN keyvault_devicekey k ON k.system_title = m.system_title
           WHERE m.id = c.meter_id AND c.kind = %s AND (c.parameters->>'epoch')::int = k.epoch
             AND k.activated_at IS NOT NULL AND c.state IN ('queued', 'offered', 'delivered', 'expired')""",
        CommandKind.SET_KEY.value,
    )


def _tell_homes(now: datetime) -> int:
    """Tell meters their concentrator (command 7) that heard last of another: by a move that the restore forgot.

    Of several such commands that left for one meter only the last is open again: an earlier one would move it back.
    """
    execute(
        """UPDATE concentrators_command c SET state = 'cancelled', ended_at = %s
           WHERE c.kind = %s AND c.state IN ('queued', 'offered', 'delivered') AND EXISTS (
               SELECT 1 FROM concentrators_command later
               WHERE later.meter_id = c.meter_id AND later.kind = c.kind AND later.id > c.id
                     AND later.octets IS NOT NULL)""",
        now,
        CommandKind.SET_CONCENTRATOR.value,
    )
    rows = fetch_rows(
        """SELECT t.meter_id, a.concentrator_id
           FROM (SELECT DISTINCT ON (meter_id) meter_id, parameters->>'title' AS title FROM concentrators_command
                 WHERE kind = %s AND octets IS NOT NULL ORDER BY meter_id, id DESC) AS t
           JOIN concentrators_assignment a ON a.meter_id = t.meter_id AND a.valid_from <= %s
                AND (a.valid_to IS NULL OR a.valid_to > %s)
           JOIN concentrators_concentrator c ON c.id = a.concentrator_id
           WHERE encode(c.system_title, 'hex') <> t.title""",
        CommandKind.SET_CONCENTRATOR.value,
        now,
        now,
    )
    return len(concentrator_titles.tell(dict(rows), now, now))
