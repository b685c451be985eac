"""What `manage.py doctor` looks at: each examination gives one finding, and what to do about it."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import redis
from celery.exceptions import OperationalError as BrokerError
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from psycopg.errors import InsufficientPrivilege

from ami_headend import database_roles, embedded
from ami_headend.alerts.models import Rule
from ami_headend.celery import app
from ami_headend.core import clock
from concentrators import uplinks
from keyvault import journal, masterkey
from keyvault.masterkey import MasterKeyError, UnwrapError
from keyvault.models import DeviceKey
from keyvault.provisioning import purpose_of
from meters import partitions

POSTGRES_VERSION_MIN = 16
CLOCK_DIFFERENCE_MAX = timedelta(seconds=2)
DISK_FREE_MIN_OCTETS = 2 * 1024**3
DISK_FREE_MIN_PART = 0.05
BACKLOG_AGE_MAX = timedelta(minutes=10)
EVALUATED_LATE = timedelta(minutes=3)  # the schedule has the rules of alerts looked at twice a minute
PING_TIMEOUT_S = 2.0
_PLAUSIBLE_SINCE = datetime(2025, 1, 1, tzinfo=UTC)
_ROWS_TO_OPEN = 5
_SYNCHRONISE = "Synchronise the clocks of every host and of the database's (NTP)."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is well, what was found, and what to do if not."""

    name: str
    well: bool
    found: str
    to_do: str = ""

    def as_dict(self) -> dict[str, str | bool]:
        return asdict(self)


def examine() -> list[Finding]:
    """Every finding. What needs the database is left out where it does not answer."""
    database, broker, *others = examine_beside_workers()
    return [database, broker, _workers(), *others]


def examine_beside_workers() -> list[Finding]:
    """Every finding but whether workers answer: what a worker looks at, which need not ask itself."""
    database = _database()
    findings = [database, broker(), _master_key(), _key_journal(), _disk()]
    if database.well:
        needing_tables = (_role, _partitions, _master_key_opens, _replayed, _backlog, _alerts)
        migrations = _migrations()
        findings += [migrations, _clock()]
        if migrations.well:
            findings += [look() for look in needing_tables]
    return findings


def _nothing_runs(configured: bool) -> str:
    if configured:
        return "Check the address, the network and that the server runs."
    return f"Nothing runs in {settings.VAR_DIR}: start it with make up, or set DATABASE_URL and REDIS_URL."


def _database() -> Finding:
    try:
        connection.ensure_connection()
        version = connection.cursor().connection.info.server_version // 10_000
    except OperationalError as error:
        ours = embedded.database_url(settings.VAR_DIR) == settings.DATABASE_URL
        return Finding("database", False, str(error).splitlines()[0], _nothing_runs(not ours))
    if version < POSTGRES_VERSION_MIN:
        to_do = f"Upgrade it to PostgreSQL {POSTGRES_VERSION_MIN} or newer."
        return Finding("database", False, f"PostgreSQL {version} is too old", to_do)
    return Finding("database", True, f"PostgreSQL {version} answers")


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        return Finding("migrations", False, f"{missing} are not applied", "Run manage.py migrate.")
    return Finding("migrations", True, "all applied")


def _role() -> Finding:
    """Whether the role of web and workers has the rights that it needs, and no others."""
    excess = database_roles.excess_rights()
    if excess:
        to_do = (
            "Give web and workers a role of their own in DATABASE_URL, name the owner's in OWNER_DATABASE_URL, and run "
            "manage.py migrate (docs/operations.md)."
        )
        return Finding("database role", False, "; ".join(excess), to_do)
    missing = database_roles.tables_out_of_reach()
    days = partitions.retention_set()
    to_do = "Run manage.py grant_rights where OWNER_DATABASE_URL is set."
    if missing:
        return Finding("database role", False, f"may not read {len(missing)} tables, {missing[0]} among them", to_do)
    if days != settings.RETENTION_DAYS:
        found = f"may drop readings after {days} days, and RETENTION_DAYS is {settings.RETENTION_DAYS}"
        return Finding("database role", False, found, to_do)
    return Finding("database role", True, "owns nothing, and may not change the audit record")


def broker() -> Finding:
    """Whether Redis answers."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=PING_TIMEOUT_S) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        ours = embedded.redis_url(settings.VAR_DIR) == settings.REDIS_URL
        return Finding("broker", False, f"Redis does not answer: {error}", _nothing_runs(not ours))
    return Finding("broker", True, "Redis answers")


def _workers() -> Finding:
    to_do = "Start one: celery --app ami_headend worker (make up starts it, too); see its log."
    try:
        answers = app.control.ping(timeout=PING_TIMEOUT_S)
    except (BrokerError, redis.RedisError, OSError) as error:
        return Finding("workers", False, f"cannot be asked: {error}", "Mend the broker first.")
    if not answers:
        return Finding("workers", False, "none answers", to_do)
    return Finding("workers", True, f"{len(answers)} answering")


def _clock() -> Finding:
    to_do = _SYNCHRONISE
    before = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        theirs: datetime = cursor.fetchone()[0]
    after = timezone.now()
    difference = max(before - theirs, theirs - after, timedelta())
    if after < _PLAUSIBLE_SINCE or after < before:
        return Finding("clock", False, f"this machine's clock says {after:%Y-%m-%d %H:%M:%S} UTC", to_do)
    if difference > CLOCK_DIFFERENCE_MAX:
        return Finding("clock", False, f"{difference.total_seconds():.1f} s between here and the database", to_do)
    return Finding("clock", True, "agrees with the database's")


def _master_key() -> Finding:
    try:
        keys = masterkey.probe()
    except MasterKeyError as error:
        to_do = "Mend it, or restore it from its own backup. Until then uplinks wait, and none is lost."
        return Finding("master key", False, str(error), to_do)
    return Finding("master key", True, f"version {keys.active_version} active, in {masterkey.provider()}")


def _master_key_opens() -> Finding:
    """Opens the oldest and the newest wrapped keys, which a rotation by halves would tell apart."""
    wrapped = DeviceKey.objects.exclude(wrapped=None)
    rows = {row.pk: row for order in ("pk", "-pk") for row in wrapped.order_by(order)[:_ROWS_TO_OPEN]}
    if not rows:
        return Finding("master key opens", True, "no stored key to open yet")
    try:
        keys = masterkey.current()
        for row in rows.values():
            title = bytes(row.system_title)
            keys.unwrap(bytes(row.wrapped or b""), purpose_of(row.epoch), title, row.epoch)
    except (MasterKeyError, UnwrapError) as error:
        to_do = "Name the master key that belongs to this database (MASTER_KEY_FILE, PKCS11_TOKEN), or restore it."
        return Finding("master key opens", False, str(error), to_do)
    return Finding("master key opens", True, f"{len(rows)} stored keys tried")


def _key_journal() -> Finding:
    try:
        folder = journal.probe()
    except MasterKeyError as error:
        to_do = "Mend it: until then no key is made, given out or cut off. Uplinks under known keys are verified."
        return Finding("key journal", False, str(error), to_do)
    return Finding("key journal", True, f"can be written, in {folder}")


def _replayed() -> Finding:
    if not journal.is_open():
        to_do = "Run manage.py restore --replay. Uplinks are taken meanwhile, and wait."
        return Finding("restored", False, "the key journal was not replayed into this database yet", to_do)
    return Finding("restored", True, "nothing is left to replay")


def _partitions() -> Finding:
    now = timezone.now()
    period = partitions.covered(now)
    to_do = "Run manage.py pgpartition --yes, and see that celery beat runs."
    if period is None:
        return Finding("partitions", False, "none for now: no reading can be stored", to_do)
    start, end = period
    if start > partitions.retention_start(now):
        return Finding("partitions", False, f"begin on {start:%Y-%m-%d}, after the retention does", to_do)
    if end < now + timedelta(days=31):
        return Finding("partitions", False, f"end on {end:%Y-%m-%d}", to_do)
    return Finding("partitions", True, f"from {start:%Y-%m} to {end:%Y-%m}")


def _disk() -> Finding:
    place = next(path for path in (settings.VAR_DIR, *settings.VAR_DIR.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    found = f"{usage.free / 1024**3:.1f} GiB free at {place}"
    if usage.free < DISK_FREE_MIN_OCTETS or usage.free < usage.total * DISK_FREE_MIN_PART:
        to_do = "Make room: lower RETENTION_DAYS or UPLINK_KEEP_DAYS, or give it a larger disk."
        return Finding("disk", False, found, to_do)
    return Finding("disk", True, found)


def _backlog() -> Finding:
    waiting = uplinks.backlog()
    if waiting.oldest_received_at is None:
        return Finding("backlog", True, "nothing waits")
    now = timezone.now()
    age_s = clock.age_s(waiting.oldest_received_at, now)
    if clock.is_ahead(waiting.oldest_received_at, now):
        found = f"{waiting.uplinks} uplinks wait, the oldest received {-age_s:.0f} s in the future"
        return Finding("backlog", False, found, _SYNCHRONISE)
    found = f"{waiting.uplinks} uplinks wait, the oldest for {age_s:.0f} s"
    if (
        clock.has_rested(waiting.oldest_received_at, BACKLOG_AGE_MAX, now)
        or waiting.uplinks > settings.UPLINK_QUEUE_MAX
    ):
        to_do = "See that workers and celery beat run, and the uplinks' last_error; or start more workers."
        return Finding("backlog", False, found, to_do)
    return Finding("backlog", True, found)


def _alerts() -> Finding:
    """Whether somebody evaluates the rules of alerts: a worker does, sent by the schedule."""
    rules = list(
        Rule.objects.filter(is_enabled=True).order_by("name").values_list("name", "evaluated_at", "last_error")
    )
    if not rules:
        return Finding("alerts", True, "every rule is switched off")
    latest = max((at for _, at, _ in rules if at is not None), default=None)
    if not clock.is_within(latest, EVALUATED_LATE, timezone.now()):
        found = (
            "no rule was looked at yet"
            if latest is None
            else f"no rule was looked at since {latest:%Y-%m-%d %H:%M} UTC"
        )
        return Finding(
            "alerts", False, found, "See that celery beat and a worker run: no alert is raised without them."
        )
    failing = [(name, error) for name, _, error in rules if error]
    if failing:
        name, error = failing[0]
        found = f"{len(failing)} of {len(rules)} rules cannot be evaluated; {name}: {error}"
        return Finding("alerts", False, found, "See the worker's log; if it stays, report it.")
    return Finding("alerts", True, f"{len(rules)} rules are looked at")


def guarded(look: Callable[[], list[Finding]] = examine) -> list[Finding]:
    """The findings; a database that fails in the middle becomes one of them."""
    try:
        return look()
    except DatabaseError as error:
        to_do = "See the database's own log."
        if isinstance(error.__cause__, InsufficientPrivilege):
            to_do = "Run manage.py grant_rights, or migrate, where OWNER_DATABASE_URL is set."
        return [Finding("database", False, str(error).splitlines()[0], to_do)]
