"""The head-end's database as a whole: observed, copied as by a backup, and put back."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.db import connection, transaction

from ami_headend.backup.making import LEFT_OUT
from ami_headend.core.sql import execute, fetch_rows, int_array
from keyvault.replay_window import parse_gaps
from tests.flows import databases
from tests.stateful.entities import ACCEPTED, DUPLICATE, EXTRA, REFUSED, Counters, Kid
from tests.stateful.model import Truth
from tests.stateful.reporting import SumPlace


class Observed(NamedTuple):
    """What stands: in the form of the model's Truth, as far as both know it."""

    keys: dict[tuple[bytes, int], str]
    counters: dict[tuple[bytes, int], tuple[int, int, list[tuple[int, int]]]]  # highest, floor, gaps
    sessions: dict[tuple[bytes, int, bytes], tuple[int, int, list[tuple[int, int]]]]  # likewise, by kid context
    session_floors: dict[tuple[bytes, int], bytes]
    uplinks: dict[int, tuple[dict[str, int], dict[int, str]] | None]
    standing: dict[tuple[bytes, str, int], int]
    totals: dict[tuple[int, str, int], tuple[int, int]]
    said: dict[SumPlace, tuple[int, int, int, int]]  # epoch, counter, value, meters
    awaited: dict[bytes, str]
    enrolled: dict[Kid, bytes]
    barred: dict[bytes | int, str]  # certificates that were revoked, versions of the agreement key that were cut off


def observed() -> Observed:
    """What the database says now."""
    refused: dict[int, dict[int, str]] = defaultdict(dict)
    for uplink_id, index, kind in fetch_rows(
        "SELECT uplink_id, frame_index, kind FROM concentrators_integrityfailure ORDER BY id"
    ):
        assert index not in refused[uplink_id], "one frame, two refusals"
        refused[uplink_id][index] = kind
    uplinks: dict[int, tuple[dict[str, int], dict[int, str]] | None] = {}
    for uplink_id, verified_at, *counts in fetch_rows(
        "SELECT id, verified_at, frames, accepted, duplicate, rejected FROM concentrators_uplink"
    ):
        frames, accepted, duplicate, rejected = counts
        if verified_at is None:
            assert (accepted, duplicate, rejected) == (0, 0, 0)
            assert uplink_id not in refused
            uplinks[uplink_id] = None
        else:
            assert accepted + duplicate + rejected == frames
            assert rejected == len(refused[uplink_id])
            uplinks[uplink_id] = {ACCEPTED: accepted, DUPLICATE: duplicate}, refused[uplink_id]
    return Observed(
        key_states(),
        _counters(),
        _sessions(),
        _session_floors(),
        uplinks,
        _standing(),
        _totals(),
        _said(),
        awaited(),
        enrolled(),
        barred(),
    )


def key_states() -> dict[tuple[bytes, int], str]:
    """State of every device key, by system title and epoch."""
    return {row[:2]: row[2] for row in fetch_rows("SELECT system_title, epoch, state FROM keyvault_devicekey")}


def key_kinds() -> dict[Kid, tuple[bytes, str]]:
    """Fingerprint and scheme of every device key, by system title and epoch."""
    rows = fetch_rows("SELECT system_title, epoch, fingerprint, scheme FROM keyvault_devicekey")
    return {row[:2]: row[2:] for row in rows}


def awaited() -> dict[bytes, str]:
    """The meters that may enrol, with the scheme of the epoch to come."""
    return dict(fetch_rows("SELECT system_title, scheme FROM keyvault_awaitedenrolment"))


def enrolled() -> dict[Kid, bytes]:
    """The number of the certificate that enrolled an epoch."""
    return {row[:2]: row[2] for row in fetch_rows("SELECT system_title, epoch, cti FROM keyvault_enrolment")}


def barred() -> dict[bytes | int, str]:
    """What enrols nobody any more: numbers of certificates, and versions of the agreement key."""
    return {
        **{row[0]: "revoked" for row in fetch_rows("SELECT cti FROM keyvault_revokedcertificate")},
        **{row[0]: "cut off" for row in fetch_rows("SELECT id FROM keyvault_agreementkey WHERE state = 'cut_off'")},
    }


def expected(truth: Truth, seen: Observed) -> Observed:
    """The model in the same form. Why an attacker's frame was refused is not its concern."""
    uplinks: dict[int, tuple[dict[str, int], dict[int, str]] | None] = {}
    for uplink_id, uplink in truth.uplinks.items():
        if uplink.verdicts is None:
            uplinks[uplink_id] = None
            continue
        reasons = seen.uplinks.get(uplink_id) or ({}, {})
        refused = {
            index: reasons[1].get(index, verdict) if verdict == REFUSED else verdict
            for index, verdict in enumerate(uplink.verdicts)
            if verdict not in (ACCEPTED, DUPLICATE)
        }
        counts = {verdict: uplink.verdicts.count(verdict) for verdict in (ACCEPTED, DUPLICATE)}
        uplinks[uplink_id] = counts, refused
    return Observed(
        {kid: key.state for kid, key in truth.keys.items()},
        {kid: _as_stored(key.own) for kid, key in truth.keys.items()},
        {
            (*kid, context): _as_stored(counters)
            for kid, key in truth.keys.items()
            for context, counters in key.sessions.items()
        },
        {kid: key.session_floor for kid, key in truth.keys.items() if key.session_floor},
        uplinks,
        {place: value for place, (value, _) in truth.standing.items()},
        truth.totals(),
        {place: (*said[0], *said[1:3]) for place, said in truth.said.standing.items()},
        truth.vouching.awaited,
        truth.vouching.enrolled,
        {**dict.fromkeys(truth.vouching.revoked, "revoked"), **dict.fromkeys(truth.vouching.cut_off, "cut off")},
    )


def _as_stored(counters: Counters) -> tuple[int, int, list[tuple[int, int]]]:
    return max(counters.taken, default=-1), counters.floor, counters.gaps()


def _sessions() -> dict[tuple[bytes, int, bytes], tuple[int, int, list[tuple[int, int]]]]:
    rows = fetch_rows(
        """SELECT k.system_title, k.epoch, s.context, s.highest, s.floor, s.gaps::text
           FROM keyvault_devicekey k JOIN keyvault_session s ON s.key_id = k.id"""
    )
    return {row[:3]: (row[3], row[4], parse_gaps(row[5])) for row in rows}


def _session_floors() -> dict[tuple[bytes, int], bytes]:
    rows = fetch_rows(
        """SELECT k.system_title, k.epoch, c.session_floor
           FROM keyvault_devicekey k JOIN keyvault_invocationcounter c ON c.key_id = k.id
           WHERE c.session_floor <> ''"""
    )
    return {row[:2]: row[2] for row in rows}


def _counters() -> dict[tuple[bytes, int], tuple[int, int, list[tuple[int, int]]]]:
    rows = fetch_rows(
        """SELECT k.system_title, k.epoch, c.highest, c.floor, c.gaps::text
           FROM keyvault_devicekey k JOIN keyvault_invocationcounter c ON c.key_id = k.id"""
    )
    return {row[:2]: (row[2], row[3], parse_gaps(row[4])) for row in rows}


def _standing() -> dict[tuple[bytes, str, int], int]:
    rows = fetch_rows(
        """SELECT m.system_title, g.obis_code, extract(epoch FROM s.captured_at)::bigint, s.value
           FROM (SELECT meter_id, register_id, captured_at, value FROM meters_reading
                 UNION ALL SELECT meter_id, register_id, captured_at, value FROM meters_meterevent) AS s
           JOIN meters_meter m ON m.id = s.meter_id JOIN meters_register g ON g.id = s.register_id"""
    )
    standing = {row[:3]: row[3] for row in rows}
    assert len(standing) == len(rows), "a reading stands twice"
    return standing


def _totals() -> dict[tuple[int, str, int], tuple[int, int]]:
    rows = fetch_rows(
        """SELECT t.concentrator_id, g.obis_code, extract(epoch FROM t.interval_start)::bigint,
                  sum(t.value_sum)::bigint, sum(t.meters_counted)::int
           FROM concentrators_intervaltotal t JOIN meters_register g ON g.id = t.register_id
           GROUP BY 1, 2, 3"""
    )
    return {row[:3]: row[3:] for row in rows}


def _said() -> dict[SumPlace, tuple[int, int, int, int]]:
    rows = fetch_rows(
        """SELECT s.concentrator_id, g.obis_code, extract(epoch FROM s.interval_start)::bigint,
                  s.epoch, s.invocation_counter, s.value_sum, s.meters_counted
           FROM concentrators_reportedsum s JOIN meters_register g ON g.id = s.register_id"""
    )
    return {row[:3]: row[3:] for row in rows}


def compared() -> dict[SumPlace, tuple[int, int]]:
    """What the head-end adds up itself where a concentrator said a sum, as far as it has compared them."""
    rows = fetch_rows(
        """SELECT s.concentrator_id, g.obis_code, extract(epoch FROM s.interval_start)::bigint,
                  s.own_sum::bigint, s.own_meters, (s.own_sum, s.own_meters) = (s.value_sum, s.meters_counted),
                  s.differs_since IS NULL
           FROM concentrators_reportedsum s JOIN meters_register g ON g.id = s.register_id
           WHERE s.compared_at IS NOT NULL"""
    )
    assert all(row[5] == row[6] for row in rows), "a sum differs, or not, and is said to be otherwise"
    return {row[:3]: row[3:5] for row in rows}


def verified(uplink_ids: list[int]) -> set[int]:
    """Which of the uplinks have their verdicts."""
    rows = fetch_rows(
        "SELECT id FROM concentrators_uplink WHERE id = ANY(%s::bigint[]) AND verified_at IS NOT NULL",
        int_array(uplink_ids),
    )
    return {row[0] for row in rows}


@contextmanager
def own_database() -> Iterator[None]:
    """A database of its own that is not waited for: what a crash of the machine would lose does not matter here."""
    options = connection.settings_dict["OPTIONS"]
    before = options["options"]
    options["options"] = f"{before} -c synchronous_commit=off"
    try:
        with databases.copied():
            yield
    finally:
        options["options"] = before


def empty() -> None:
    """A database as after its migrations: cheaper than another copy of it."""
    with _unguarded(), transaction.atomic():
        _delete(name for name in _tables() if name not in _KEPT)
        execute("DELETE FROM meters_register WHERE obis_code = %s", EXTRA)


class Dump(NamedTuple):
    """Every row of a state of the database, by table and columns, and where its sequences stood."""

    rows: dict[str, bytes]
    sequences: list[tuple[str, int | None]]


def dump() -> Dump:
    """The state that the current transaction sees."""
    rows = {}
    with connection.cursor() as cursor:
        for name, columns in fetch_rows(_COLUMNS, [name for name in _tables() if name != _CONSTANT]):
            if name not in LEFT_OUT:
                with cursor.copy(f"COPY (SELECT {columns} FROM {name}) TO STDOUT (FORMAT BINARY)") as copy:
                    rows[f"{name} ({columns})"] = b"".join(copy)
    sequences = fetch_rows("SELECT sequencename::text, last_value FROM pg_sequences WHERE schemaname = 'public'")
    return Dump(rows, sequences)


def load(dumped: Dump) -> None:
    """Put a state back: whatever came later is gone, the numbers that were given out among it."""
    with _unguarded(), transaction.atomic():
        _delete(name for name in _tables() if name != _CONSTANT)
        with connection.cursor() as cursor:
            for place, rows in dumped.rows.items():
                with cursor.copy(f"COPY {place} FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(rows)
            for name, last in dumped.sequences:
                cursor.execute("SELECT setval(%s, %s, %s)", [name, last or 1, last is not None])


def _delete(names: Iterable[str]) -> None:
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"DELETE FROM {name}")  # foreign keys are looked at in the end


@contextmanager
def _unguarded() -> Iterator[None]:
    """Without the triggers that would not have it: those of the audit chain, and of the registry's generation."""
    guarded = [row[0] for row in fetch_rows(_WITH_TRIGGERS, _tables())]
    _alter(guarded, "DISABLE")
    yield
    _alter(guarded, "ENABLE")


def _alter(names: list[str], what: str) -> None:
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"ALTER TABLE {name} {what} TRIGGER USER")


def _tables() -> list[str]:
    """The tables of our apps; partitions go with what they are of."""
    rows = fetch_rows(
        r"""SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
            AND relnamespace = 'public'::regnamespace
            AND relname ~ '^(keyvault|meters|concentrators|metrics_uncounted)' ORDER BY 1"""
    )
    return [row[0] for row in rows]


_CONSTANT = "meters_register"
# What migrations put in.
_FEED = ("concentrators_feedera", "concentrators_feedhead")
_KEPT = (_CONSTANT, *_FEED, "concentrators_registrygeneration", "keyvault_journal_replayed")
_COLUMNS = """SELECT c.relname::text, string_agg(quote_ident(a.attname), ', ')
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
              WHERE c.relname = ANY(%s::text[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
              GROUP BY c.relname ORDER BY 1"""
_WITH_TRIGGERS = """SELECT DISTINCT c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                    WHERE c.relname = ANY(%s::text[]) AND NOT t.tgisinternal"""
