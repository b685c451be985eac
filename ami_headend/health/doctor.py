"""The health checks of `manage.py doctor`: each returns one result, with what to do about it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Max
from django.utils import timezone

from ami_headend import database_roles, schedule_lease
from ami_headend.alerts.models import Rule
from ami_headend.core import clock, kernelclock, upgrades
from ami_headend.core.database_errors import Trouble, is_writable, trouble_of
from ami_headend.core.deadline import DeadlineError, deadline
from ami_headend.core.sql import select
from ami_headend.core.text import counted
from ami_headend.health import heartbeats, host, neighbours, pooler
from ami_headend.health.results import CheckResult
from ami_headend.queues import QUEUES
from concentrators.ingest import activity, backlog
from keyvault import journal
from keyvault.audit import chain
from keyvault.master_key import MasterKeyError, trial
from meters.archive import restoring, verification
from meters.readings import partitions
from meters.registry import access_record

POSTGRES_VERSION_MIN = 16
BACKLOG_AGE_MAX = timedelta(minutes=10)
EVALUATED_LATE = timedelta(minutes=3)  # the schedule evaluates the rules of alerts twice a minute
LOOK_S = 5  # for one check
SKEW_PERIOD = timedelta(hours=1)
SKEWED_FRAMES_MIN = 3
SKEWED_SHARE = 0.1
_PLAUSIBLE_SINCE = datetime(2025, 1, 1, tzinfo=UTC)
_START = "see docs/deploy/systemd (make up starts them too), and their logs."
_SEE_SERVER = "See the server's own log: it is overloaded, hangs, or cannot be reached."
_SEE_LOCKS = "See pg_stat_activity and pg_locks: a session holds a lock too long, or the server is overloaded."
_SYNCHRONISE = "Synchronise the clocks of every host and of the database (NTP)."
_WAS_AHEAD = (
    "Check what time it is. If the clocks are behind, synchronise them (NTP). If they are right, one was ahead "
    "when this was stored: keep it right from now on. Nothing waits for that time, though it stays stored. This "
    "finding ends {when}."
)


def examine() -> list[CheckResult]:
    """Run every check. Checks that need the database are left out if it does not answer or has another schema."""
    findings = [_in_time(name, look) for name, look in _BESIDE_DATABASE.items()]
    database = _in_time("database", _database)
    if not database.well:
        return [database, *findings]
    migrations = _in_time("migrations", _migrations)
    findings = [database, *findings, migrations]
    if migrations.well:
        findings += [_in_time(name, look) for name, look in _IN_DATABASE.items()]
    return findings


def _in_time(name: str, look: Callable[[], CheckResult]) -> CheckResult:
    """Run one check; if it fails or takes too long, that is its result."""
    try:
        with deadline(LOOK_S + 1):  # for a server that hangs; one that answers keeps its own timeout
            return look() if name in _BESIDE_DATABASE or look is _database else _in_database(look)
    except DeadlineError:
        connection.close()
        return CheckResult(name, False, f"did not answer within {LOOK_S + 1} s", _SEE_SERVER)
    except DatabaseError as error:
        trouble = trouble_of(error)
        found = "the database " + trouble.value if trouble else str(error).splitlines()[0]
        if trouble is Trouble.RIGHTS:
            return CheckResult(
                name,
                False,
                str(error).splitlines()[0],
                "Run manage.py grant_rights, or migrate if OWNER_DATABASE_URL is set.",
            )
        if trouble is Trouble.BUSY:
            return CheckResult(name, False, f"did not answer within {LOOK_S} s: {found}", _SEE_LOCKS)
        return CheckResult(name, False, found, _SEE_SERVER)


def _in_database(look: Callable[[], CheckResult]) -> CheckResult:
    connection.ensure_connection()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = '{LOOK_S}s'")
        return look()


def _database() -> CheckResult:
    try:
        connection.ensure_connection()
        with connection.cursor() as cursor:
            version = cursor.connection.info.server_version // 10_000
        is_read_only = not is_writable()
    except OperationalError as error:
        return CheckResult("database", False, str(error).splitlines()[0], host.where_to_look())
    if version < POSTGRES_VERSION_MIN:
        to_do = f"Upgrade it to PostgreSQL {POSTGRES_VERSION_MIN} or newer."
        return CheckResult("database", False, f"PostgreSQL {version} is too old", to_do)
    if is_read_only:
        to_do = "Promote the standby, point DATABASE_URL at the primary server, or free its disk."
        return CheckResult("database", False, "cannot be written: it is a standby, or set to read only", to_do)
    return CheckResult("database", True, f"PostgreSQL {version} answers")


def _migrations() -> CheckResult:
    try:
        upgrades.check(MigrationRecorder(connection).applied_migrations())
    except upgrades.HalfWayError as error:
        return CheckResult(
            "migrations", False, str(error), f"Run manage.py migrate of {upgrades.OLDEST}, then of this one."
        )
    executor = MigrationExecutor(connection)
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        return CheckResult("migrations", False, f"{missing} are not applied", "Run manage.py migrate.")
    return CheckResult("migrations", True, "all applied")


def _role() -> CheckResult:
    """Check that the role of web and workers has the rights it needs, and no others."""
    excess = database_roles.excess_rights()
    if excess:
        to_do = (
            "Give web and workers a role of their own in DATABASE_URL, set the owner's in OWNER_DATABASE_URL, and run "
            "manage.py migrate (docs/operations/install.md)."
        )
        return CheckResult("database role", False, "; ".join(excess), to_do)
    missing = database_roles.tables_out_of_reach()
    days = partitions.retention_set()
    to_do = "Run manage.py grant_rights if OWNER_DATABASE_URL is set."
    if missing:
        return CheckResult(
            "database role", False, f"may not read {counted(len(missing), 'table')}, for example {missing[0]}", to_do
        )
    if days != settings.RETENTION_DAYS:
        found = f"may drop readings after {days} days, but RETENTION_DAYS is {settings.RETENTION_DAYS}"
        return CheckResult("database role", False, found, to_do)
    days = access_record.keep_days_set()
    if days != settings.ACCESS_KEEP_DAYS:
        found = f"may remove access records after {days} days, but ACCESS_KEEP_DAYS is {settings.ACCESS_KEEP_DAYS}"
        return CheckResult("database role", False, found, to_do)
    return CheckResult("database role", True, "owns nothing and may not change the audit record")


def _workers() -> CheckResult:
    """Check that each queue has a live worker, by the heartbeats in the database."""
    workers = [one for one in heartbeats.living() if one.kind == heartbeats.WORKER]
    lacking = [name for name in QUEUES if not any(name in one.queues for one in workers)]
    if not workers:
        return CheckResult("workers", False, "none is running", f"Start them: {_START}")
    if lacking:
        found = f"no worker serves the queue{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        return CheckResult("workers", False, found, f"Start one with --queues {','.join(lacking)}: {_START}")
    return CheckResult(
        "workers", True, ", ".join(f"{one.name} ({counted(one.processes, 'process', 'processes')})" for one in workers)
    )


def _schedule() -> CheckResult:
    """Check that a schedule runs, and that one of them is at work."""
    schedules = [one for one in heartbeats.living() if one.kind == heartbeats.SCHEDULE]
    if not schedules:
        return CheckResult(
            "schedule", False, "none is running", "Start celery --app ami_headend beat (make up starts it too)."
        )
    at_work = schedule_lease.holder()
    waiting = ", ".join(one.name for one in schedules)
    if at_work is None or at_work.left_s <= 0:
        before = "" if at_work is None else f"; {at_work.host} was, until {-at_work.left_s:.0f} s ago"
        found = f"none is at work{before}; running: {waiting}"
        return CheckResult("schedule", False, found, "One takes over within 15 s; else see beat's log for why not.")
    others = [one.name for one in schedules if one.name != heartbeats.schedule_name(at_work.host)]
    standing_by = f"; standing by: {', '.join(others)}" if others else ""
    return CheckResult("schedule", True, f"at work on {at_work.host}{standing_by}")


def _hosts() -> CheckResult:
    """Check that no process was lost, and that none finds something wrong on its host, by the heartbeats."""
    living = heartbeats.living()
    wrong = [f"{one.name} has given no sign of life for {one.silent_s:.0f} s" for one in heartbeats.lost()]
    wrong += [f"{one.name}: {one.trouble}" for one in living if one.trouble]
    if wrong:
        to_do = (
            "Run manage.py doctor there, and do what it says. If one is gone for good: manage.py doctor --forget NAME."
        )
        return CheckResult("hosts", False, "; ".join(wrong), to_do)
    return CheckResult(
        "hosts",
        True,
        counted(
            len(living),
            "process lives, and finds nothing wrong where it is",
            "processes live, and find nothing wrong where they are",
        ),
    )


def _clock() -> CheckResult:
    """Check that the clocks of this host, of every worker and of the database agree."""
    before = timezone.now()
    theirs: datetime = select("SELECT clock_timestamp()")[0][0]
    after = timezone.now()
    if after < _PLAUSIBLE_SINCE or after < before:
        return CheckResult("clock", False, f"this machine's clock says {after:%Y-%m-%d %H:%M:%S} UTC", _SYNCHRONISE)
    off_s = {"this machine": max((before - theirs).total_seconds(), 0) or min((after - theirs).total_seconds(), 0)}
    off_s |= {one.name: one.clock_off_s for one in heartbeats.living()}
    name, most_s = max(off_s.items(), key=lambda one: abs(one[1]))
    if abs(most_s) > clock.DIFFERENCE_MAX.total_seconds():
        found = f"that of {name} is {abs(most_s):.1f} s {'ahead of' if most_s > 0 else 'behind'} the database's"
        return CheckResult("clock", False, found, _SYNCHRONISE)
    return _clock_of_all(theirs)


def _clock_of_all(now: datetime) -> CheckResult:
    """Check the clock that all hosts agree on, by stored times, by meters and by the kernel: all may be wrong
    together.
    """
    newest, frames, skewed = activity.clock_skew(now - SKEW_PERIOD)
    audited, evaluated = chain.last_at(), Rule.objects.aggregate(at=Max("evaluated_at"))["at"]
    # The uplink is sought among the newest ones, so that later uplinks end the finding.
    stored = [
        (newest, "an uplink was received", "once 1,000 uplinks have come since, or at that time"),
        (audited, "the newest audit record is", "with the next audited act, or at that time"),
        (evaluated, "a rule of alerts was evaluated", "when workers evaluate it again"),
    ]
    latest, what, when = max(((at, *said) for at, *said in stored if at is not None), default=(now, "", ""))
    if clock.is_ahead(latest, now):
        found = f"{what} {-clock.age_s(latest, now):.0f} s in the future: a clock was ahead, or is behind now"
        return CheckResult("clock", False, found, _WAS_AHEAD.format(when=when))
    if skewed >= SKEWED_FRAMES_MIN and skewed >= frames * SKEWED_SHARE:
        found = f"{skewed} of {frames} frames of the last hour are from the future: the head-end's clock is behind"
        return CheckResult("clock", False, found, _SYNCHRONISE)
    kept = kernelclock.is_synchronised()
    if kept is False and settings.TLS and not settings.IS_EMBEDDED:
        return CheckResult(
            "clock", False, "all agree, but this host's kernel reports that nothing keeps its clock right", _SYNCHRONISE
        )
    said = {True: ", and is kept right", False: "; nothing keeps it right, as this host's kernel reports", None: ""}[
        kept
    ]
    return CheckResult("clock", True, f"agrees with the database's{said}")


def _master_key_opens() -> CheckResult:
    """Open the oldest and the newest wrapped keys; after half a rotation only one of them would open."""
    try:
        tried, refusals = trial.try_stored_keys()
    except MasterKeyError as error:
        tried, refusals = 0, [str(error)]
    if refusals:
        to_do = "Set the master key that belongs to this database (MASTER_KEY_FILE, PKCS11_TOKEN), or restore it."
        return CheckResult("master key opens", False, refusals[0], to_do)
    return CheckResult(
        "master key opens", True, f"{counted(tried, 'stored key')} tried" if tried else "no stored key to open yet"
    )


def _replayed() -> CheckResult:
    if not journal.is_open():
        found = "the key journal has not been replayed into this database since it was restored or promoted"
        to_do = (
            "Run manage.py restore --replay, with the journals of all hosts. Uplinks are accepted meanwhile, and wait."
        )
        return CheckResult("restored", False, found, to_do)
    return CheckResult("restored", True, "nothing is left to replay")


def _partitions() -> CheckResult:
    now = timezone.now()
    period = partitions.covered(now)
    to_do = "Run manage.py migrate, and check that celery beat runs, and that the archive can be reached."
    if (fault := verification.fault()) or period is None:
        return CheckResult("partitions", False, fault or "none for now: no reading can be stored", to_do)
    if still := restoring.interrupted(now):
        to_do = "Run manage.py archive restore of that month again, which goes on, or archive run, which undoes it."
        return CheckResult("partitions", False, still, to_do)
    start, end = period
    if start > partitions.first_stored(now):
        return CheckResult("partitions", False, f"begin on {start:%Y-%m-%d}, later than the retention period", to_do)
    if end < now + timedelta(days=31):
        return CheckResult("partitions", False, f"end on {end:%Y-%m-%d}", to_do)
    return CheckResult("partitions", True, f"from {start:%Y-%m} to {end:%Y-%m}")


def _backlog() -> CheckResult:
    waiting = backlog.waiting()
    if waiting.oldest_received_at is None:
        return CheckResult("backlog", True, "nothing waits")
    now = timezone.now()
    age_s = clock.age_s(waiting.oldest_received_at, now)
    wait = counted(waiting.uplinks, "uplink waits", "uplinks wait")
    if clock.is_ahead(waiting.oldest_received_at, now):
        found = f"{wait}, the oldest received {-age_s:.0f} s in the future"
        return CheckResult("backlog", False, found, _WAS_AHEAD.format(when="once workers have verified them"))
    found = f"{wait}, the oldest for {age_s:.0f} s"
    if (
        clock.has_rested(waiting.oldest_received_at, BACKLOG_AGE_MAX, now)
        or waiting.uplinks > settings.UPLINK_QUEUE_MAX
    ):
        to_do = "Check that workers and celery beat run, and the uplinks' last_error; or start more workers."
        return CheckResult("backlog", False, found, to_do)
    return CheckResult("backlog", True, found)


def _alerts() -> CheckResult:
    """Check that a worker evaluates the rules of alerts, on time of the schedule."""
    rules = list(
        Rule.objects.filter(is_enabled=True).order_by("name").values_list("name", "evaluated_at", "last_error")
    )
    if not rules:
        return CheckResult("alerts", True, "every rule is switched off")
    latest = max((at for _, at, _ in rules if at is not None), default=None)
    if not clock.is_within(latest, EVALUATED_LATE, timezone.now()):
        found = (
            "no rule has been evaluated yet"
            if latest is None
            else f"no rule has been evaluated since {latest:%Y-%m-%d %H:%M} UTC"
        )
        return CheckResult(
            "alerts", False, found, "Check that celery beat and a worker run: no alert is raised without them."
        )
    failing = [(name, error) for name, _, error in rules if error]
    if failing:
        name, error = failing[0]
        found = f"{len(failing)} of {counted(len(rules), 'rule')} cannot be evaluated; {name}: {error}"
        return CheckResult("alerts", False, found, "See the worker's log; if the error stays, report it.")
    return CheckResult("alerts", True, f"{counted(len(rules), 'rule is', 'rules are')} evaluated")


_BESIDE_DATABASE: dict[str, Callable[[], CheckResult]] = {
    "broker": host.broker,
    "master key": host.master_key,
    "key journal": host.key_journal,
    "journal mirrors": host.journal_mirrors,
    "disk": host.disk,
    "sign-in provider": lambda: CheckResult("sign-in provider", *neighbours.sign_in_provider()),
}


_IN_DATABASE: dict[str, Callable[[], CheckResult]] = {
    "workers": _workers,
    "schedule": _schedule,
    "hosts": _hosts,
    "clock": _clock,
    "database role": _role,
    "partitions": _partitions,
    "master key opens": _master_key_opens,
    "restored": _replayed,
    "standbys": lambda: CheckResult("standbys", *neighbours.standbys()),
    "sessions": lambda: CheckResult("sessions", *pooler.sessions()),
    "backlog": _backlog,
    "alerts": _alerts,
    "client addresses": lambda: CheckResult("client addresses", *neighbours.client_addresses()),
    "laboratory meters": lambda: CheckResult("laboratory meters", *neighbours.laboratory_meters()),
    "deadlines": lambda: CheckResult("deadlines", *neighbours.deadlines()),
    "messages": lambda: CheckResult("messages", *neighbours.messages()),
    "meter identities": lambda: CheckResult("meter identities", *neighbours.identities()),
    "siem": lambda: CheckResult("siem", *neighbours.siem()),
    "mask authorities": lambda: CheckResult("mask authorities", *neighbours.mask_authorities()),
}
