"""A site to measure: a database with its provisioned fleet, which can be reset between measurements."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Sum
from psycopg import sql

from ami_headend.database_roles import grant_rights
from ami_headend.local import embedded
from bench import fleet as fleets
from bench import scheme_keys
from bench.fleet import Fleet, MeterKey
from bench.floor import MeterRow
from bench.load import Body
from concentrators.fleet import tokens
from concentrators.models import Concentrator, Uplink
from concentrators.totals import totals
from keyvault.cose.structures import encode_sequence
from keyvault.schemes.table import USUAL

TEMPLATE = "bench_template"
_ASSIGNED_FOR = timedelta(days=90)
_START_AGO = timedelta(days=30)  # small fleets use up many intervals
_ATTEMPTS = 5
_EMPTIED = (
    "meters_reading, concentrators_integrityfailure, concentrators_failuretally, concentrators_intervaltotal,"
    " concentrators_uplink"
)


class WrongResultError(Exception):
    """The head-end did not store what was posted, so the figures would mean nothing."""


@dataclass
class Site:
    """A database, its fleet, and the next interval of its meters."""

    name: str
    fleet: Fleet
    tokens: list[str] = field(repr=False)
    next_interval: int = 0

    def use(self) -> None:
        """Make this the head-end of this process: its database, and its key journal."""
        _use_head_end(self.name)

    def part(self, first: int, end: int, next_interval: int) -> "Site":
        """Return a site of the concentrators in [first, end), with ``next_interval`` for their meters."""
        fleet = self.fleet
        part = Fleet(fleet.start_s, fleet.titles[first:end], fleet.meters[first:end])
        return Site(self.name, part, self.tokens[first:end], next_interval)

    def bodies(self, frames: list[list[bytes]], size: int) -> list[Body]:
        """Return uplinks of ``size`` frames; the concentrators alternate."""
        blocks = [
            [Body(token, encode_sequence(block[at : at + size])) for at in range(0, len(block), size)]
            for token, block in zip(self.tokens, frames, strict=True)
        ]
        return [body for turn in zip(*blocks, strict=True) for body in turn]

    def reset(self) -> None:
        """Empty readings, uplinks and totals; set counters to before ``next_interval``, in a table without bloat."""
        with connection.cursor() as cursor:
            _truncate(cursor, f"{_EMPTIED}, keyvault_invocationcounter")
            cursor.execute(
                "INSERT INTO keyvault_invocationcounter (key_id, key_version, highest, floor)"
                " SELECT id, version, %s, 0 FROM keyvault_devicekey ORDER BY id",
                [self.next_interval - 1],
            )
        settle("keyvault_invocationcounter")

    def preload(self, readings: int) -> None:
        """Store at least this many readings of the fleet, in intervals before its first."""
        intervals = -(-readings // (self.fleet.size * len(fleets.REGISTERS)))
        with connection.cursor() as cursor:
            cursor.execute(
                """INSERT INTO meters_reading
                       (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
                   SELECT to_timestamp(%s - n * %s), 1000 + n, 0, m.id, r.id,
                          CASE r.kind WHEN 'interval' THEN 30 ELSE 0 END
                   FROM generate_series(%s, 1, -1) AS n, meters_meter m, meters_register r
                   WHERE r.obis_code = ANY(%s)""",
                [self.fleet.start_s, fleets.INTERVAL_S, intervals, list(fleets.REGISTERS)],
            )
        settle("meters_reading")

    def floor_rows(self) -> tuple[dict[bytes, MeterRow], dict[str, tuple[int, int]]]:
        """Return the floor's data: meters by kid, and (id, interval minutes) of registers by OBIS code."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT k.system_title, m.id, k.id FROM keyvault_devicekey k"
                " JOIN meters_meter m ON m.system_title = k.system_title WHERE k.epoch = %s",
                [fleets.EPOCH],
            )
            ids = {bytes(title): (meter_id, key_id) for title, meter_id, key_id in cursor.fetchall()}
            cursor.execute("SELECT obis_code, id, CASE kind WHEN 'interval' THEN 30 ELSE 0 END FROM meters_register")
            registers = {code: (register_id, minutes) for code, register_id, minutes in cursor.fetchall()}
        meters = {
            meter.kid: MeterRow(meter.key, int.from_bytes(meter.base_iv, "big"), *ids[meter.kid[:8]])
            for block in self.fleet.meters
            for meter in block
            if isinstance(meter, MeterKey)
        }
        return meters, registers

    def check(self, frames: int, first_uplink: int = 0, *, with_totals: bool = True) -> None:
        """WrongResultError unless every frame since that uplink was accepted and its readings are stored."""
        accepted = Uplink.objects.filter(pk__gt=first_uplink).aggregate(n=Sum("accepted"))["n"]
        if accepted != frames:
            raise WrongResultError(f"{accepted} of {frames} frames were accepted")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM meters_reading WHERE uplink_id > %s AND captured_at >= to_timestamp(%s)",
                [first_uplink, self.fleet.start_s],
            )
            stored = cursor.fetchone()[0]
        wanted = frames * self.fleet.readings // self.fleet.size
        if stored != wanted:
            raise WrongResultError(f"{stored} readings are stored, not {wanted}")
        if with_totals and totals.compare(datetime.fromtimestamp(self.fleet.start_s, UTC), datetime.now(UTC)):
            raise WrongResultError("the totals do not agree with the readings")


def use_database(name: str) -> None:
    connections.close_all()
    connection.settings_dict["NAME"] = name


def journal_of(name: str) -> Path:
    """Return the folder of the key journal of the head-end with that database: each has one of its own."""
    return Path(settings.VAR_DIR) / f"journal-{name}"


def _use_head_end(name: str) -> None:
    settings.KEY_JOURNAL_DIR = journal_of(name)
    use_database(name)


def _truncate(cursor: CursorWrapper, tables: str) -> None:
    """Empty tables beside running processes: tasks of the schedule may hold some of them, and wait for others."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            cursor.execute(f"TRUNCATE {tables}")
        except OperationalError:  # a deadlock, which the other side has survived
            if not left:
                raise
        else:
            return


def settle(*tables: str) -> None:
    """Bring statistics and visibility to those of a database at rest, and flush earlier writes before the clock
    starts.
    """
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"VACUUM (ANALYZE) {table}")
        cursor.execute("CHECKPOINT")


def make_template() -> None:
    """Make the migrated, empty database that is copied for every site; anew, where an earlier run kept one."""
    use_database("postgres")
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(TEMPLATE)))
    create_database(TEMPLATE, "template0")
    use_database(TEMPLATE)
    call_command("migrate", verbosity=0)
    grant_rights(embedded.WORKING_ROLE)
    connections.close_all()


@contextmanager
def made(
    executor: ProcessPoolExecutor, name: str, concentrators: int, meters_each: int, kinds: Sequence[str] = (USUAL,)
) -> Iterator[Site]:
    """Make a database of that name with a provisioned fleet, that many concentrators of each of some kinds of keys.

    It is dropped when the block ends.
    """
    start = (datetime.now(UTC) - _START_AGO).replace(minute=0, second=0, microsecond=0)
    titles = fleets.titles(concentrators * len(kinds), meters_each)
    create_database(name, TEMPLATE)
    try:
        _use_head_end(name)
        keys = scheme_keys.provision(executor, [kind for kind in kinds for _ in range(concentrators)], titles)
        fleet = Fleet(int(start.timestamp()), titles, keys.meters)
        yield Site(name, fleet, _register(titles, keys.reporters, start - _ASSIGNED_FOR))
    finally:
        use_database("postgres")
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def create_database(name: str, template: str) -> None:
    use_database("postgres")
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))


def _register(titles: Sequence[Sequence[bytes]], reporters: Sequence[bytes | None], since: datetime) -> list[str]:
    """Register concentrators, their meters and assignments, the latter by COPY. Return the concentrators' tokens."""
    concentrators = [
        Concentrator.objects.create(name=f"bench {n}", system_title=title) for n, title in enumerate(reporters)
    ]
    with transaction.atomic():
        _copy(
            "meters_meter (system_title, serial_number, name, status, interval_minutes, commissioned_at, created_at)",
            [(title, title.hex(), "", "commissioned", 30, since, since) for block in titles for title in block],
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT system_title, id FROM meters_meter")
            ids = {bytes(title): meter_id for title, meter_id in cursor.fetchall()}
        _copy(
            "concentrators_assignment (meter_id, concentrator_id, valid_from)",
            [
                (ids[title], concentrator.pk, since)
                for concentrator, block in zip(concentrators, titles, strict=True)
                for title in block
            ],
        )
    settle(
        "keyvault_devicekey",
        "keyvault_invocationcounter",
        "meters_meter",
        "concentrators_assignment",
        "concentrators_concentrator",
    )
    return [tokens.issue(concentrator) for concentrator in concentrators]


def _copy(target: str, rows: Sequence[tuple[object, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
