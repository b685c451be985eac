"""System checks: settings that contradict each other or cannot work stop the start. Each has an id."""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError
from django.utils import timezone
from limits import parse

from ami_headend.core import bearer
from ami_headend.core.client_ip import is_loopback
from ami_headend.core.commands import SETTINGS
from ami_headend.siem import formats, receiver
from ami_headend.signin import roles
from concentrators.fleet import laboratory
from keyvault import master_key
from keyvault.journal import mirrors

COUNTER_GAP_RUNS_MIN = 1024  # the number of gaps that a meter is promised
_POSITIVE = (
    "RETENTION_DAYS",
    "RETRANSMISSION_WINDOW_S",
    "DEVICE_CIPHER_CACHE_SIZE",
    "SESSIONS_KEPT",
    "UPLINK_MAX_OCTETS",
    "UPLINK_MAX_FRAMES",
    "FRAME_MAX_OCTETS",
    "UPLINK_OCTETS_PER_HOUR",
    "UPLINK_QUEUE_MAX",
    "UPLINK_QUEUE_SHARE",
    "UPLINK_SWEEP_AFTER_S",
    "UPLINK_SPLIT_AFTER",
    "UPLINK_KEEP_DAYS",
    "UPLINK_KEEP_WAITING_DAYS",
    "FAILURE_ROWS_PER_HOUR",
    "KEY_GRACE_DAYS",
    "BAD_TAGS_PER_HOUR",
    "UNKNOWN_FRAMES_PER_HOUR",
    "COMMAND_RETRY_S",
    "COMMAND_EXPIRES_S",
    "APPROVAL_EXPIRES_HOURS",
    "FAILURE_KEEP_DAYS",
    "UPLINK_ROWS_KEEP_DAYS",
    "FEED_KEEP_DAYS",
    "REGISTER_CHECK_DAYS",
    "ARCHIVE_AFTER_MONTHS",
    "RESEND_GAPS_AFTER_S",
    "RESEND_GAPS_DAYS",
    "RESENDS_PER_DAY",
    "SIGN_IN_FAILURES",
    "SIGN_IN_LOCKOUT_S",
    "SIGN_IN_KEEP_DAYS",
    "ALERT_KEEP_DAYS",
    "ACCESS_KEEP_DAYS",
    "API_TOKEN_DAYS_MAX",
    "OIDC_TIMEOUT_S",
    "SESSION_IDLE_S",
    "SESSION_ABSOLUTE_S",
    "WEB_INGEST_THREADS",
    "WEB_PAGE_THREADS",
    "WEB_PROGRAM_THREADS",
    "WEB_EXPORT_THREADS",
    "WEB_POST_S",
    "WEB_PROBE_S",
    "WEB_PAGE_S",
    "WEB_EXPORT_S",
    "WEB_HEAD_S",
    "WEB_REQUEST_S",
    "WEB_IDLE_S",
    "WEB_ANSWER_S",
    "WEB_SILENCE_S",
    "WEB_CONNECTIONS",
    "WEB_SPOOL_OCTETS",
)
_SMALLEST_FRAME_OCTETS = 32  # tag, protected header and an AES-CCM tag around nothing
_DAY_S = 86_400
_BATCH_MOST_S = 600  # shorter than the time limit of its task
_EXCHANGE_MOST_S = 60  # shorter than a message's lease and the time limit of its task
_STEP_UP_LEAST_S = 60
_SILENCE_LEAST_S = 5
_MONTH_DAYS = 31  # readings are dropped by the month
_KEY_FRAMES_MAX = 2**23


@register(Tags.database)
def check_laboratory(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of laboratory meters in production, where a database is looked at (``check --database default``)."""
    if not databases:
        return []
    try:
        found = laboratory.silenced_in_production(timezone.now())
    except DatabaseError:  # the table is made by the migration that asks, or doctor says what is wrong
        return []
    if not found:
        return []
    message = f"{len(found)} laboratory meters in production: {found[0][0]} at {found[0][1]} ... raise no alerts."
    return [checks.Warning(message, hint="Run manage.py bench_meter TITLE --end for each.", id="ami_headend.W050")]


@register(SETTINGS)
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Return every finding about this project's own settings."""
    return [
        *_cell(),
        *_limits(),
        *_contradictions(),
        *_sign_in(),
        *_siem(),
        *_broker(),
        *_master_key_provider(),
        *_master_key_place(),
        *_journal_mirrors(),
    ]


# Deadlines follow late readings for 35 days, and repeated frames are compared with what they brought.
ARCHIVE_LEAST_MONTHS = 3


def _error(number: int, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"ami_headend.E{number:03}")


def _cell() -> Iterator[CheckMessage]:
    if settings.CELL and not bearer.is_cell(settings.CELL):
        hint = "Write 1 to 16 characters of a-z and 0-9: tokens and the entrance name the cell."
        yield _error(76, f"CELL is {settings.CELL!r}.", hint)


def _limits() -> Iterator[CheckMessage]:
    for name in _POSITIVE:
        if getattr(settings, name) <= 0:
            yield _error(1, f"{name} is {getattr(settings, name)}.", f"Set {name} to a number above 0.")
    if settings.COUNTER_GAP_RUNS < COUNTER_GAP_RUNS_MIN:
        yield _error(
            2,
            f"COUNTER_GAP_RUNS is {settings.COUNTER_GAP_RUNS}: late frames would be refused as counter_too_old.",
            f"Set it to {COUNTER_GAP_RUNS_MIN} or more.",
        )
    if settings.ARCHIVE_URL and settings.ARCHIVE_AFTER_MONTHS < ARCHIVE_LEAST_MONTHS:
        yield _error(
            43,
            f"ARCHIVE_AFTER_MONTHS is {settings.ARCHIVE_AFTER_MONTHS}: late frames would be refused as too_old.",
            f"Set it to {ARCHIVE_LEAST_MONTHS} or more.",
        )
    for name in ("UPLINK_RATE", "UPLINK_STATUS_RATE", "COMMAND_RATE", "RECEIPT_RATE", "HOP_RATE", "API_TOKEN_RATE"):
        try:
            parse(getattr(settings, name))
        except ValueError:
            yield _error(3, f"{name} is {getattr(settings, name)!r}, which is not a rate.", "Write it as 600/minute.")


def _contradictions() -> Iterator[CheckMessage]:
    if settings.URL_PREFIX and not settings.URL_PREFIX.startswith("/"):
        yield _error(40, f"URL_PREFIX is {settings.URL_PREFIX!r}.", "Write it as /ami.")
    if settings.WEB_SPOOL_OCTETS < settings.UPLINK_MAX_OCTETS:
        yield _error(41, "WEB_SPOOL_OCTETS is less than one uplink.", "Raise it: 2 GiB is usual.")
    if settings.WEB_SILENCE_S < _SILENCE_LEAST_S:
        yield _error(42, "WEB_SILENCE_S ends web processes that are merely busy.", "Raise it: 30 seconds are usual.")
    if settings.DEBUG and settings.TLS:
        yield _error(4, "DEBUG shows secrets to visitors, and TLS says this is a deployment.", "Set DEBUG=0 or TLS=0.")
    if settings.FRAME_MAX_OCTETS < _SMALLEST_FRAME_OCTETS:
        yield _error(5, "FRAME_MAX_OCTETS refuses every frame.", f"Set it to {_SMALLEST_FRAME_OCTETS} or more.")
    if settings.UPLINK_MAX_OCTETS < settings.FRAME_MAX_OCTETS:
        yield _error(
            6, "UPLINK_MAX_OCTETS is less than FRAME_MAX_OCTETS.", "An uplink must hold a frame: raise the first."
        )
    if settings.UPLINK_QUEUE_SHARE > settings.UPLINK_QUEUE_MAX:
        yield _error(
            30,
            "UPLINK_QUEUE_SHARE is more than UPLINK_QUEUE_MAX: one concentrator could stop all others.",
            "Lower it: a tenth of UPLINK_QUEUE_MAX is usual.",
        )
    if settings.UPLINK_KEEP_WAITING_DAYS < settings.UPLINK_KEEP_DAYS:
        yield _error(
            7,
            "UPLINK_KEEP_WAITING_DAYS is less than UPLINK_KEEP_DAYS.",
            "Frames that wait for a key are kept at least as long as the others: raise the first.",
        )
    if settings.RETENTION_DAYS * _DAY_S < settings.RETRANSMISSION_WINDOW_S:
        yield _error(
            8,
            "RETENTION_DAYS is shorter than RETRANSMISSION_WINDOW_S.",
            "A retransmission is recognised by the stored reading: keep readings for longer than the window.",
        )
    if settings.UPLINK_KEEP_DAYS * _DAY_S <= settings.UPLINK_SWEEP_AFTER_S:
        yield _error(9, "UPLINK_SWEEP_AFTER_S is longer than octets are kept.", "Lower it: 60 seconds is usual.")
    if not 0 < settings.ALERT_EXCHANGE_S <= _EXCHANGE_MOST_S:
        yield _error(
            31,
            f"ALERT_EXCHANGE_S is {settings.ALERT_EXCHANGE_S:g}.",
            f"A worker needs up to this long for one message: set it above 0, and to {_EXCHANGE_MOST_S} at most.",
        )
    yield from _deliveries()
    yield from _key_lifetimes()
    yield from _resends()
    yield from _rows_kept()


def _deliveries() -> Iterator[CheckMessage]:
    if not 0 < settings.FEED_EXCHANGE_S <= _BATCH_MOST_S:
        hint = f"A worker needs up to this long for one batch: set it above 0, and to {_BATCH_MOST_S} at most."
        yield _error(74, f"FEED_EXCHANGE_S is {settings.FEED_EXCHANGE_S:g}.", hint)
    if relative := [folder for folder in settings.FEED_FOLDERS if not folder.startswith("/")]:
        yield _error(75, f"FEED_FOLDERS has {relative[0]!r}.", "Write folders from the root on, as /srv/feed.")


def _key_lifetimes() -> Iterator[CheckMessage]:
    if settings.KEY_GRACE_DAYS * _DAY_S < settings.RETRANSMISSION_WINDOW_S:
        yield _error(
            13,
            "KEY_GRACE_DAYS is shorter than RETRANSMISSION_WINDOW_S.",
            "Late frames under a replaced key would be refused: keep it for longer than concentrators buffer.",
        )
    if not 0 < settings.KEY_ROTATE_AT_COUNTER < _KEY_FRAMES_MAX:
        yield _error(
            14,
            f"KEY_ROTATE_AT_COUNTER is {settings.KEY_ROTATE_AT_COUNTER}.",
            f"Keys must be replaced before {_KEY_FRAMES_MAX} frames (RFC 9053 section 4.2): set it below.",
        )


def _rows_kept() -> Iterator[CheckMessage]:
    if max(settings.RETENTION_DAYS + _MONTH_DAYS, settings.FAILURE_KEEP_DAYS) > settings.UPLINK_ROWS_KEEP_DAYS:
        yield _error(
            26,
            "UPLINK_ROWS_KEEP_DAYS is shorter than rows that name uplinks are kept: readings (RETENTION_DAYS and a "
            "month), failures (FAILURE_KEEP_DAYS).",
            "Raise it.",
        )
    if settings.FAILURE_KEEP_DAYS < settings.UPLINK_KEEP_WAITING_DAYS:
        yield _error(
            27,
            "FAILURE_KEEP_DAYS is shorter than UPLINK_KEEP_WAITING_DAYS.",
            "A frame that waits for a key keeps its evidence until then: raise the first.",
        )


def _resends() -> Iterator[CheckMessage]:
    if settings.RESEND_GAPS_DAYS * _DAY_S <= settings.RESEND_GAPS_AFTER_S:
        yield _error(
            24,
            "RESEND_GAPS_AFTER_S is longer than RESEND_GAPS_DAYS: no gap would ever be recovered.",
            "Lower the first: a day is usual.",
        )


def _sign_in() -> Iterator[CheckMessage]:
    if settings.STEP_UP_S < _STEP_UP_LEAST_S:
        hint = f"Set it to {_STEP_UP_LEAST_S} or more: people need time to fill in a form."
        yield _error(31, f"STEP_UP_S is {settings.STEP_UP_S}.", hint)
    if settings.BREACHED_PASSWORDS_FILE and not Path(settings.BREACHED_PASSWORDS_FILE).is_file():
        yield _error(32, f"BREACHED_PASSWORDS_FILE {settings.BREACHED_PASSWORDS_FILE} is not a file.", "Put it there.")
    yield from _provider()
    if settings.PROXY_COUNT < 0:
        yield _error(18, f"PROXY_COUNT is {settings.PROXY_COUNT}.", "Set it to the number of proxies in front, or 0.")
    if settings.TLS and not settings.TWO_FACTOR_REQUIRED:
        yield checks.Warning(
            "TWO_FACTOR_REQUIRED is off: a password alone lets people act on keys and accounts.",
            hint="Leave it on if anybody can reach the head-end from another machine.",
            id="ami_headend.W019",
        )
    # Not for the embedded database, where it is off by default: every command of a trial would warn.
    if settings.TLS and not settings.IS_EMBEDDED and not settings.REQUIRE_APPROVAL:
        yield checks.Warning(
            "REQUIRE_APPROVAL is off: one person alone may export keys and destroy master key versions.",
            hint="Leave it on if anybody can reach the head-end from another machine.",
            id="ami_headend.W025",
        )


def _provider() -> Iterator[CheckMessage]:
    issuer = urlsplit(settings.OIDC_ISSUER)
    if not settings.PASSWORD_SIGN_IN and not (settings.OIDC_ISSUER and settings.BREAK_GLASS_ACCOUNT):
        hint = "Set both, or leave PASSWORD_SIGN_IN on: otherwise nobody gets in when the provider is down."
        yield _error(50, "PASSWORD_SIGN_IN is off without OIDC_ISSUER and BREAK_GLASS_ACCOUNT.", hint)
    if not settings.OIDC_ISSUER:
        return
    if issuer.scheme != "https" and not (issuer.scheme == "http" and is_loopback(issuer.hostname or "")):
        yield _error(51, f"OIDC_ISSUER is {settings.OIDC_ISSUER!r}.", "Write it as the provider does: https://...")
    if not settings.OIDC_CLIENT_ID:
        yield _error(52, "OIDC_ISSUER is set without OIDC_CLIENT_ID.", "Register this head-end at the provider.")
    if "openid" not in settings.OIDC_SCOPES.split():
        yield _error(53, "OIDC_SCOPES lacks openid: there would be no ID token.", "Add it.")
    unknown = sorted(set(settings.OIDC_ROLES.values()) - set(roles.RIGHTS))
    if unknown or not settings.OIDC_ROLES:
        what = f"names roles that are not there: {', '.join(unknown)}" if unknown else "is empty: nobody gets in"
        known = ", ".join(f"GROUP={role}" for role in roles.RIGHTS)
        yield _error(54, f"OIDC_ROLES {what}.", f"Write it as {known}.")


def _siem() -> Iterator[CheckMessage]:
    if settings.SIEM_FORMAT not in formats.FORMATS:
        yield _error(60, f"SIEM_FORMAT is {settings.SIEM_FORMAT!r}.", f"Set it to {' or '.join(formats.FORMATS)}.")
    if not settings.SIEM_ENTERPRISE.isdigit():
        yield _error(61, f"SIEM_ENTERPRISE is {settings.SIEM_ENTERPRISE!r}.", "Write your private enterprise number.")
    if not 0 < settings.SIEM_EXCHANGE_S <= _EXCHANGE_MOST_S:
        hint = f"Set it above 0, and to {_EXCHANGE_MOST_S} at most."
        yield _error(62, f"SIEM_EXCHANGE_S is {settings.SIEM_EXCHANGE_S:g}.", hint)
    if settings.SIEM_URL:
        parts = urlsplit(settings.SIEM_URL)
        if parts.scheme != receiver.SCHEME or not parts.hostname:
            hint = f"Write it as {receiver.SCHEME}://siem.example:6514; there is no sending without TLS."
            yield _error(63, f"SIEM_URL is {settings.SIEM_URL!r}.", hint)
    for name in ("SIEM_CA_FILE", "SIEM_CERTIFICATE_FILE", "SIEM_KEY_FILE"):
        if getattr(settings, name) and not Path(getattr(settings, name)).is_file():
            yield _error(64, f"{name} {getattr(settings, name)} is not a file.", "Put it there.")


def _broker() -> Iterator[CheckMessage]:
    """Check the broker: anybody who can write to Redis can run tasks and lift rate limits."""
    parts = urlsplit(settings.REDIS_URL)
    if not settings.TLS or parts.scheme == "unix" or is_loopback(parts.hostname or "localhost"):
        return
    missing = [
        what
        for what, is_there in (("a password", parts.password), ("TLS (rediss://)", parts.scheme == "rediss"))
        if not is_there
    ]
    if missing:
        yield checks.Warning(
            f"REDIS_URL names a server on the network without {' and without '.join(missing)}.",
            hint="Give Redis a password and a certificate: rediss://:PASSWORD@host:6379/0?ssl_ca_certs=/path/ca.pem",
            id="ami_headend.W029",
        )
    if parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0] not in ("required", "CERT_REQUIRED"):
        yield checks.Warning(
            "REDIS_URL turns the check of the server's certificate off: anybody in between reads the password.",
            hint="Leave ssl_cert_reqs out, and name the authority with ssl_ca_certs.",
            id="ami_headend.W030",
        )


def _master_key_provider() -> Iterator[CheckMessage]:
    if settings.MASTER_KEY_PROVIDER not in master_key.PROVIDERS:
        known = " or ".join(master_key.PROVIDERS)
        yield _error(15, f"MASTER_KEY_PROVIDER is {settings.MASTER_KEY_PROVIDER!r}.", f"Set it to {known}.")
    if settings.MASTER_KEY_PROVIDER == master_key.PKCS11:
        for name in ("PKCS11_MODULE", "PKCS11_TOKEN", "PKCS11_PIN_FILE"):
            if not getattr(settings, name):
                yield _error(16, f"MASTER_KEY_PROVIDER is pkcs11, and {name} is not set.", f"Set {name}.")
    if settings.MASTER_KEY_DESTROY_AFTER_DAYS < 0:
        yield _error(17, "MASTER_KEY_DESTROY_AFTER_DAYS is below 0.", "Set it to the age of your oldest backup.")


def _journal_mirrors() -> Iterator[CheckMessage]:
    needed = settings.KEY_JOURNAL_MIRRORS_NEEDED
    if needed not in list(mirrors.Needed):
        yield _error(70, f"KEY_JOURNAL_MIRRORS_NEEDED is {needed!r}.", f"Set it to {', '.join(mirrors.Needed)}.")
    elif needed != mirrors.Needed.NONE and not settings.KEY_JOURNAL_MIRRORS:
        hint = "Name folders at other places in KEY_JOURNAL_MIRRORS, separated by commas."
        yield _error(71, f"KEY_JOURNAL_MIRRORS_NEEDED is {needed}, and there is no mirror.", hint)
    own = Path(settings.KEY_JOURNAL_DIR).absolute()
    folders = mirrors.folders()
    if own in folders or len(set(folders)) < len(folders):
        yield _error(72, "KEY_JOURNAL_MIRRORS names KEY_JOURNAL_DIR, or a folder twice.", "Name each place once.")
    if settings.KEY_JOURNAL_MIRROR_S <= 0:
        yield _error(73, f"KEY_JOURNAL_MIRROR_S is {settings.KEY_JOURNAL_MIRROR_S:g}.", "Set it above 0 seconds.")


def _master_key_place() -> Iterator[CheckMessage]:
    """Check that others can neither replace the master key nor get it from the web server."""
    path = Path(settings.MASTER_KEY_FILE).absolute()
    if Path(settings.STATIC_ROOT).absolute() in path.parents:
        yield _error(10, "MASTER_KEY_FILE lies in STATIC_ROOT, which is served.", "Put it elsewhere.")
    try:
        mode, folder_mode = path.stat().st_mode, path.parent.stat().st_mode
    except OSError:
        return  # not made yet; the code that needs it reports that
    if stat.S_IMODE(mode) & 0o077:
        yield _error(11, f"The master key file {path} may be read by others.", f"chmod 600 {path}")
    if folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX:
        yield checks.Warning(
            f"Everybody may replace files in {path.parent}, which holds the master key.",
            hint=f"chmod o-w {path.parent}",
            id="ami_headend.W012",
        )
