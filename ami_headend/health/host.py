"""The health checks of this host, which need no database. Heartbeats tell the others what they find."""

import shutil
from collections.abc import Callable

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from ami_headend.core.broker_errors import BROKER_ERRORS, summary
from ami_headend.health.results import CheckResult
from keyvault import journal
from keyvault import master_key as master_keys
from keyvault.journal import mirrors, writing
from keyvault.journal.mirrors import Standing
from keyvault.master_key import MasterKeyError

DISK_FREE_MIN_OCTETS = 2 * 1024**3
DISK_FREE_MIN_PART = 0.05
BROKER_TIMEOUT_S = 2.0
_BROKER_TROUBLE: tuple[type[Exception], ...] = (*BROKER_ERRORS, ValueError)  # ValueError for an invalid URL


def where_to_look() -> str:
    """Return where to look if a server does not answer."""
    if not settings.IS_EMBEDDED:
        return "Check the address, the network, and whether the server runs."
    return f"Start it with make up; if make up runs in {settings.VAR_DIR}, the server hangs or has failed: see its log."


def broker() -> CheckResult:
    """Check that Redis answers and accepts writes."""
    try:
        timeouts = {"socket_connect_timeout": BROKER_TIMEOUT_S, "socket_timeout": BROKER_TIMEOUT_S}
        with redis.Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0), **timeouts) as client:
            client.set("ami-headend:doctor", "1", ex=60)  # a replica or a full Redis answers, but refuses writes
    except _BROKER_TROUBLE as error:
        return CheckResult("broker", False, f"Redis accepts nothing: {summary(error)}", where_to_look())
    return CheckResult("broker", True, "Redis answers and accepts writes")


def master_key() -> CheckResult:
    """Check that the master key can be used."""
    return _probed(
        "master key",
        lambda: f"version {master_keys.probe().active_version} active, in {master_keys.provider()}",
        "Repair it, or restore it from its own backup. Until then uplinks wait, and none is lost.",
    )


def key_journal() -> CheckResult:
    """Check that the folder of the key journal can be written."""
    return _probed(
        "key journal",
        lambda: f"can be written, in {journal.probe()}",
        "Repair it: until then no key is made, exported or cut off. Uplinks under known keys are verified.",
    )


def journal_mirrors() -> CheckResult:
    """Check that each mirror of the key journal has all that is written on this host."""
    if not settings.KEY_JOURNAL_MIRRORS:
        return _mirrors(True, "none: the key journal of this host stands on this host alone")
    try:
        standings = mirrors.standings(writing.own_segments())
    except MasterKeyError:
        return _mirrors(False, "cannot be compared: the key journal itself cannot be used", "See key journal.")
    wrong = [one for one in standings if one.trouble or one.octets]
    if not wrong:
        return _mirrors(True, f"{len(standings)} hold all that this host wrote")
    found = "; ".join(f"{one.folder}: {one.trouble or _behind(one)}" for one in wrong)
    may_wait = settings.KEY_JOURNAL_MIRRORS_NEEDED != mirrors.Needed.NONE
    acts = " Acts on keys may be refused until then." if may_wait else ""
    return _mirrors(False, found, f"Mend the folder; then manage.py journal mirror.{acts}")


def _mirrors(well: bool, found: str, to_do: str = "") -> CheckResult:
    return CheckResult("journal mirrors", well, found, to_do)


def _behind(mirror: Standing) -> str:
    names = [lack.segment.path.name for lack in mirror.lacks]
    more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
    return f"{mirror.octets:,} octets behind, of {names[0]}{more}"


def disk() -> CheckResult:
    """Check that there is room on the disk of our files."""
    place = next(path for path in (settings.VAR_DIR, *settings.VAR_DIR.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    found = f"{usage.free / 1024**3:.1f} GiB free at {place}"
    if usage.free < DISK_FREE_MIN_OCTETS or usage.free < usage.total * DISK_FREE_MIN_PART:
        to_do = "Make room: lower RETENTION_DAYS or UPLINK_KEEP_DAYS, or use a larger disk."
        return CheckResult("disk", False, found, to_do)
    return CheckResult("disk", True, found)


def _probed(name: str, probe: Callable[[], str], to_do: str) -> CheckResult:
    """Report what a probe found, or the MasterKeyError that it raised and what to do about it."""
    try:
        return CheckResult(name, True, probe())
    except MasterKeyError as error:
        return CheckResult(name, False, str(error), to_do)


def of_worker() -> str:
    """Return what is wrong on this host that a worker or web host needs; nothing if all is well."""
    return _trouble(broker, key_journal, journal_mirrors, disk)


def of_schedule() -> str:
    """Return what is wrong on this host that a schedule needs; nothing if all is well."""
    return _trouble(broker)


def _trouble(*checks: Callable[[], CheckResult]) -> str:
    return "; ".join(f"{one.name}: {one.found}" for one in (check() for check in checks) if not one.well)
