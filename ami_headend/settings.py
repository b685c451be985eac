"""Settings. Every deployment choice is an environment variable; docs/operations.md lists them."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
import django_stubs_ext
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy
from environs import Env, EnvError
from kombu import Queue

from ami_headend import embedded, logs, queues
from ami_headend.contentpolicy import CONSOLE
from ami_headend.core import mail_server, tasklimits
from ami_headend.schedule import SCHEDULE

# Lets classes of Django take the type parameters that its stubs give them.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()

# --- where things live -------------------------------------------------------------------------
VAR_DIR = env.path("AMI_VAR_DIR", BASE_DIR / "var")
DATABASE_URL = env.str("DATABASE_URL", "") or embedded.database_url(VAR_DIR)
IS_EMBEDDED = embedded.database_url(VAR_DIR) == DATABASE_URL
# The role that owns the tables: for migrate, grant_rights and whatever else changes them. Web and workers need none.
OWNER_DATABASE_URL = env.str("OWNER_DATABASE_URL", "")
if IS_EMBEDDED:
    if OWNER_DATABASE_URL:
        raise EnvError("OWNER_DATABASE_URL is set and DATABASE_URL is not: set both, or neither.")
    OWNER_DATABASE_URL = embedded.database_url(VAR_DIR, embedded.OWNER)
REDIS_URL = env.str("REDIS_URL", "") or embedded.redis_url(VAR_DIR)
if not REDIS_URL.startswith(("redis://", "rediss://", "unix://")):
    raise EnvError("REDIS_URL must begin with redis://, rediss:// or unix://.")
MASTER_KEY_PROVIDER = env.str("MASTER_KEY_PROVIDER", "file")  # or pkcs11
MASTER_KEY_FILE = env.path("MASTER_KEY_FILE", VAR_DIR / "master.keys")
PKCS11_MODULE = env.str("PKCS11_MODULE", "")  # the library of the HSM's maker
PKCS11_TOKEN = env.str("PKCS11_TOKEN", "")  # the token's label
PKCS11_PIN_FILE = env.str("PKCS11_PIN_FILE", "")  # mode 0600
MASTER_KEY_DESTROY_AFTER_DAYS = env.int("MASTER_KEY_DESTROY_AFTER_DAYS", 30)  # since it became decrypt_only
# Exports of keys, and the destruction of a master key version, need a second person. On wherever it is for real.
REQUIRE_APPROVAL = env.bool("REQUIRE_APPROVAL", not env.bool("DEBUG", False) and not IS_EMBEDDED)
APPROVAL_EXPIRES_HOURS = env.int("APPROVAL_EXPIRES_HOURS", 72)
KEY_JOURNAL_DIR = env.path("KEY_JOURNAL_DIR", VAR_DIR / "journal")  # not on the database's disk
BACKUP_DIR = env.path("BACKUP_DIR", VAR_DIR / "backups")
BACKUP_KEEP_DAYS = env.int("BACKUP_KEEP_DAYS", 35)

# --- Django ------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", False)
SECRET_KEY = env.str("SECRET_KEY", "") or embedded.secret_key(VAR_DIR)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
# Behind a TLS proxy. Off only for a stack that listens on this machine alone (demo, up, tests).
TLS = env.bool("TLS", True)
SECURE_SSL_REDIRECT = TLS
SECURE_REDIRECT_EXEMPT = [r"^health/"]  # probes come past the proxy
SESSION_COOKIE_SECURE = TLS
CSRF_COOKIE_SECURE = TLS
# With the prefix browsers take the cookies from this very host alone, over TLS: no neighbour of it can set one.
SESSION_COOKIE_NAME = "__Host-sessionid" if TLS else "sessionid"
CSRF_COOKIE_NAME = "__Host-csrftoken" if TLS else "csrftoken"
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", 31_536_000) if TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = TLS
SECURE_HSTS_PRELOAD = TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TLS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {"DIRECTIVES": CONSOLE}
# Proxies of ours in front of the web server, each of which appends to X-Forwarded-For.
PROXY_COUNT = env.int("PROXY_COUNT", 1 if TLS else 0)

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "ami_headend.console.apps.ConsoleConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "psqlextra",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "axes",
    "csp",
    "ami_headend",
    "ami_headend.alerts",
    "ami_headend.metrics",
    "ami_headend.signin",
    "concentrators",
    "meters",
    "keyvault",
]

MIDDLEWARE = [
    "ami_headend.addresses.ForwardedAddress",
    "ami_headend.contentpolicy.ContentPolicy",
    "ami_headend.health.Probes",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "ami_headend.caching.NoStore",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "ami_headend.signin.sessions.SessionLimits",
    "ami_headend.wellformed.WellFormed",
    "ami_headend.signin.step_up.StepUp",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "ami_headend.console.zone.ViewerZoneMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "ami_headend.urls"
WSGI_APPLICATION = "ami_headend.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "ami_headend" / "templates"],  # before unfold's own: what an empty list says
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database(variable: str, url: str) -> dict[str, Any]:
    """Django's parameters of a connection to a PostgreSQL."""
    configured = env.str(variable, "")
    database: dict[str, Any] = dict(env.dj_db_url(variable) if configured else dj_database_url.parse(url))
    if database["ENGINE"] != "django.db.backends.postgresql":
        raise EnvError(f"{variable} must begin with postgres://: the head-end runs on PostgreSQL alone.")
    database |= {"ENGINE": "psqlextra.backend", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
    # Django's default never prepares: every batch statement would be planned anew, for long arrays as whole-table
    # scans. (In OPTIONS beside what the URL gave, such as the host of a socket.)
    options = database.setdefault("OPTIONS", {})
    options["prepare_threshold"] = 5
    # A host that loses its power says no goodbye. By the usual settings its session would hold its locks for hours, and
    # with them a concentrator's turn, counters and totals; and a client would wait as long for a server that is gone.
    for name, value in {
        "connect_timeout": 5,
        "keepalives_idle": 60,
        "keepalives_interval": 10,
        "keepalives_count": 6,
    }.items():
        options.setdefault(name, value)
    options.setdefault(
        "options",
        "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6"
        " -c idle_in_transaction_session_timeout=10min",
    )
    return database


DATABASES = {"default": _database("DATABASE_URL", DATABASE_URL)}
# No second entry of DATABASES: nothing but database_roles.as_owner takes this role.
OWNER_DATABASE = (
    {
        name: value
        for name, value in _database("OWNER_DATABASE_URL", OWNER_DATABASE_URL).items()
        if name in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    }
    if OWNER_DATABASE_URL
    else None
)
# hstore is a contrib extension: this project needs none.
POSTGRES_EXTRA_AUTO_EXTENSION_SET_UP = False
PSQLEXTRA_PARTITIONING_MANAGER = "meters.partitions.manager"

PASSWORD_HASHERS = ["ami_headend.signin.hashers.OneAtATime"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
] + [{"NAME": "ami_headend.signin.breached.BreachedPasswordValidator"}]
# Lines of SHA-1:count in order, as haveibeenpwned-downloader writes them; without it Django's 20,000 common passwords.
BREACHED_PASSWORDS_FILE = env.str("BREACHED_PASSWORDS_FILE", "")

# --- sign-in -----------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
# Of superusers, and of those who may act on keys or accounts. Off only for a stack that listens on this machine alone;
# an account that has a second factor is asked for it anyway.
TWO_FACTOR_REQUIRED = env.bool("TWO_FACTOR_REQUIRED", TLS or not IS_EMBEDDED)
OTP_TOTP_ISSUER = "ami-headend"
SIGN_IN_FAILURES = env.int("SIGN_IN_FAILURES", 5)  # of one account from one address, before it is locked out
SIGN_IN_LOCKOUT_S = env.int("SIGN_IN_LOCKOUT_S", 900)
SIGN_IN_KEEP_DAYS = env.int("SIGN_IN_KEEP_DAYS", 400)  # the journal of sign-ins
ACCESS_KEEP_DAYS = env.int("ACCESS_KEEP_DAYS", 400)  # the record of who looked at households' data
SESSION_IDLE_S = env.int("SESSION_IDLE_S", 1800)
SESSION_ABSOLUTE_S = env.int("SESSION_ABSOLUTE_S", 12 * 3600)
SESSION_COOKIE_AGE = SESSION_ABSOLUTE_S
SESSION_ENGINE = "ami_headend.signin.session_store"
# After a sign-in or another proof, acts on accounts, keys, tokens and the like are done for so long without a new one.
STEP_UP_S = env.int("STEP_UP_S", 300)
# By account and address together: nobody can keep an account out from elsewhere, and each lock ends by itself.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_HANDLER = "ami_headend.signin.attempts.Attempts"
AXES_FAILURE_LIMIT = SIGN_IN_FAILURES
AXES_COOLOFF_TIME = timedelta(seconds=SIGN_IN_LOCKOUT_S)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "ami_headend.addresses.client_address"
AXES_WHITELIST_CALLABLE = "ami_headend.signin.unread.is_untold"
AXES_USERNAME_CALLABLE = "ami_headend.signin.lockout.name_given"
AXES_LOCKOUT_CALLABLE = "ami_headend.signin.lockout.answer"
AXES_DISABLE_ACCESS_LOG = True  # the journal counts attempts in a bounded number of rows
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
AXES_SENSITIVE_PARAMETERS = ["username", "code", "csrfmiddlewaretoken"]  # kept nowhere, as passwords are not

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = "ami_headend.formats"
STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "ami_headend.signin.authentication.PasswordAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["ami_headend.problems.ViewPermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ami_headend.problems.ShallowJSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "ami_headend.problems.Negotiation",
    "DEFAULT_METADATA_CLASS": "ami_headend.problems.Methods",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "ami_headend.problems.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ami-headend",
    "DESCRIPTION": "Head-end system for smart metering: uplinks in, verified readings out.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",  # what follows it groups the operations
    "TAGS": [
        {"name": "meters", "description": "Meters, what is missing of each, and commands to them."},
        {"name": "readings", "description": "What meters measured."},
        {"name": "events", "description": "What meters reported of themselves."},
        {"name": "totals", "description": "Sums of the meters of a concentrator, interval by interval."},
        {"name": "places", "description": "Where meters hang."},
        {"name": "keys", "description": "The states of device keys; never their octets."},
        {"name": "failures", "description": "Frames that were refused."},
        {"name": "alerts", "description": "What was found wrong, and what became of it."},
        {"name": "resends", "description": "Missing intervals asked for again, of many meters."},
        {"name": "clock-corrections", "description": "Spans in which the head-end's own clock was off."},
        {"name": "rotations", "description": "Waves of new device keys."},
        {"name": "uplinks", "description": "For concentrators: frames come in."},
        {"name": "commands", "description": "For concentrators: commands go out."},
    ],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "ami_headend.problems.document_problems",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- the web server ------------------------------------------------------------------------------
URL_PREFIX = env.str("URL_PREFIX", "").rstrip("/")  # "/ami", where the proxy serves it below a path
FORCE_SCRIPT_NAME = URL_PREFIX or None
WEB_INGEST_THREADS = env.int("WEB_INGEST_THREADS", 4)  # of each process, for concentrators
WEB_PAGE_THREADS = env.int("WEB_PAGE_THREADS", 4)  # for pages and the rest of the API
WEB_EXPORT_THREADS = env.int("WEB_EXPORT_THREADS", 2)  # for files of any number of rows
WEB_POST_S = env.float("WEB_POST_S", 6.0)  # a concentrator waits no longer for its answer: then 503
WEB_PROBE_S = env.float("WEB_PROBE_S", 4.0)  # nor does a probe
WEB_PAGE_S = env.float("WEB_PAGE_S", 60.0)
WEB_EXPORT_S = env.float("WEB_EXPORT_S", 1800.0)
WEB_HEAD_S = env.float("WEB_HEAD_S", 10.0)  # within which the headers of a request have come in
WEB_REQUEST_S = env.float("WEB_REQUEST_S", 60.0)  # and its body
WEB_IDLE_S = env.float("WEB_IDLE_S", 75.0)  # of a connection between requests; longer than the proxy's
WEB_ANSWER_S = env.float("WEB_ANSWER_S", 3600.0)  # within which a client has taken its answer
WEB_SILENCE_S = env.float("WEB_SILENCE_S", 30.0)  # a process that gives no sign of life for so long is replaced
WEB_CONNECTIONS = env.int("WEB_CONNECTIONS", 1000)  # of each process
WEB_SPOOL_OCTETS = env.int("WEB_SPOOL_OCTETS", 2 * 1024**3)  # kept of requests and answers under way, in each process

# Verified passwords of the API, for a minute (signin.authentication): in the memory of this process, never elsewhere.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 1_000}}}
DEFAULT_EXCEPTION_REPORTER = "ami_headend.debugpages.Reporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "ami_headend.debugpages.Filter"

# --- Celery --------------------------------------------------------------------------------------
CELERY_BROKER_URL = embedded.celery_broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 4
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Redis away, or answering with an error (read-only, full, loading, unable to save): tried again until it is well.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
# max_retries: publishing gives up at once (kombu would go on for 6 s); the octets are stored, and the sweep enqueues.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "max_retries": 0,
    # Redis keeps no account of what workers hold: the sweep does. With it, a worker that holds tasks ends for good
    # when Redis goes away (kombu 5.7: "Unrecoverable error" while it gives them back).
    "ack_emulation": False,
}
# Celery's Django fixup would close the connection, and with it every prepared plan, after so many tasks, and where
# this is 0 after each, whatever CONN_MAX_AGE says. A connection that broke is opened anew all the same.
CELERY_DB_REUSE_MAX = 1_000_000
CELERY_TASK_QUEUES = [Queue(name) for name in queues.QUEUES]
CELERY_TASK_DEFAULT_QUEUE = queues.BACKGROUND
CELERY_TASK_ROUTES = queues.ROUTES
CELERY_TASK_SOFT_TIME_LIMIT = tasklimits.SOFT_TIME_LIMIT_S
CELERY_TASK_TIME_LIMIT = tasklimits.TIME_LIMIT_S
# Redis carries ids of rows and nothing else. Whoever can write to it could otherwise have workers stop, or tell their
# settings; and workers that are asked through Redis say nothing of whether they reach the database.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BEAT_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_BEAT_SCHEDULER = "ami_headend.beat:SteadyScheduler"
CELERY_BEAT_SCHEDULE = SCHEDULE

# --- the head-end ----------------------------------------------------------------------------------
RETENTION_DAYS = env.int("RETENTION_DAYS", 1096)  # readings and events, dropped by the month
RETRANSMISSION_WINDOW_S = env.int("RETRANSMISSION_WINDOW_S", 10 * 86_400)
CLOCK_SKEW_S = 300
COUNTER_GAP_RUNS = env.int("COUNTER_GAP_RUNS", 1024)
DEVICE_CIPHER_CACHE_SIZE = env.int("DEVICE_CIPHER_CACHE_SIZE", 1_000_000)  # some 900 octets each
UPLINK_MAX_OCTETS = env.int("UPLINK_MAX_OCTETS", 4 * 1024 * 1024)  # after decompression
UPLINK_MAX_FRAMES = env.int("UPLINK_MAX_FRAMES", 10_000)
FRAME_MAX_OCTETS = env.int("FRAME_MAX_OCTETS", 1024)
UPLINK_RATE = env.str("UPLINK_RATE", "600/minute")  # per concentrator
UPLINK_STATUS_RATE = env.str("UPLINK_STATUS_RATE", "600/minute")  # per concentrator
UPLINK_OCTETS_PER_HOUR = env.int("UPLINK_OCTETS_PER_HOUR", 512 * 1024 * 1024)  # per concentrator, after decompression
UPLINK_QUEUE_MAX = env.int("UPLINK_QUEUE_MAX", 5_000)  # unverified uplinks before 503
UPLINK_QUEUE_SHARE = env.int("UPLINK_QUEUE_SHARE", max(1, UPLINK_QUEUE_MAX // 10))  # of one concentrator before 429
UPLINK_SWEEP_AFTER_S = env.int("UPLINK_SWEEP_AFTER_S", 60)
UPLINK_SPLIT_AFTER = env.int("UPLINK_SPLIT_AFTER", 3)  # failed attempts before it is split
UPLINK_KEEP_DAYS = env.int("UPLINK_KEEP_DAYS", 30)  # octets of verified uplinks
UPLINK_KEEP_WAITING_DAYS = env.int("UPLINK_KEEP_WAITING_DAYS", 180)  # while frames wait for a key
KEY_GRACE_DAYS = env.int("KEY_GRACE_DAYS", 45)  # late frames under a replaced key are accepted for as long
# RFC 9053 section 4.2 leaves room for 2^23 frames under one key; this leaves time to replace it.
KEY_ROTATE_AT_COUNTER = env.int("KEY_ROTATE_AT_COUNTER", 3 * 2**21)
BAD_TAGS_PER_HOUR = env.int("BAD_TAGS_PER_HOUR", 2**13)  # of one concentrator; beyond, its uplinks come last
UNKNOWN_FRAMES_PER_HOUR = env.int("UNKNOWN_FRAMES_PER_HOUR", 50_000)  # of no known key; the same
COMMAND_RATE = env.str("COMMAND_RATE", "120/minute")  # looks for commands, per concentrator
RECEIPT_RATE = env.str("RECEIPT_RATE", "1200/minute")  # receipts of commands, per concentrator
COMMAND_RETRY_S = env.int("COMMAND_RETRY_S", 60)  # not acknowledged: offered again, later each time
COMMAND_EXPIRES_S = env.int("COMMAND_EXPIRES_S", 7 * 86_400)
RESEND_GAPS = env.bool("RESEND_GAPS", False)  # ask meters by itself for intervals that are missing
RESEND_GAPS_AFTER_S = env.int("RESEND_GAPS_AFTER_S", 86_400)  # by then late frames are in, mostly
RESEND_GAPS_DAYS = env.int("RESEND_GAPS_DAYS", 7)  # older gaps are left to people
RESENDS_PER_DAY = env.int("RESENDS_PER_DAY", 10)  # per meter, the oldest gaps first
FAILURE_KEEP_DAYS = env.int("FAILURE_KEEP_DAYS", 400)  # evidence of refused frames, and their counts
UPLINK_ROWS_KEEP_DAYS = env.int("UPLINK_ROWS_KEEP_DAYS", RETENTION_DAYS + 62)  # verdicts; readings name their uplink
FAILURE_ROWS_PER_HOUR = env.int("FAILURE_ROWS_PER_HOUR", 1_000)  # per concentrator and kind

# --- alerts and metrics ------------------------------------------------------------------------------
PUBLIC_URL = env.str("PUBLIC_URL", "").rstrip("/")  # where people reach the pages; for links in messages
EMAIL_URL = env.str("EMAIL_URL", "")  # smtp://, smtp+tls:// or smtp+ssl://user:password@host:port
if EMAIL_URL:
    try:
        globals().update(mail_server.mail_settings(EMAIL_URL))
    except ValueError as error:
        raise EnvError(f"EMAIL_URL: {error}.") from None
ALERT_EXCHANGE_S = env.float("ALERT_EXCHANGE_S", 10)  # one message to one receiver, from look-up to the last octet
EMAIL_TIMEOUT = ALERT_EXCHANGE_S
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", "ami-headend@localhost")
ALERT_KEEP_DAYS = env.int("ALERT_KEEP_DAYS", 400)  # alerts that have ended, with their history
METRICS_TOKEN = env.str("METRICS_TOKEN", "")  # for Prometheus, as its bearer token
WEBHOOK_ALLOW_HTTP = env.bool("WEBHOOK_ALLOW_HTTP", False)
# This machine, the link, and what cloud providers answer about the machine. An IPv4 address inside of an IPv6 one
# (NAT64, 6to4, Teredo, mapped, ...) counts as itself.
WEBHOOK_REFUSED_NETWORKS = env.list(
    "WEBHOOK_REFUSED_NETWORKS",
    [
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4"),
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        *("::1/128", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:42::42/128"),
    ],
)


# --- operator pages --------------------------------------------------------------------------------
def _static(name: str) -> Callable[[HttpRequest], str]:
    """The address of a static file, below URL_PREFIX."""
    return lambda request: static(name)


UNFOLD = {
    "SITE_TITLE": "ami-headend",
    "SITE_HEADER": "ami-headend",
    "SITE_SUBHEADER": "smart metering head-end",
    "SITE_SYMBOL": "electric_meter",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _static("console/icon.svg")}],
    "STYLES": [_static("console/console.css")],
    "SCRIPTS": [_static(f"console/{name}.js") for name in ("zone", "live", "keyboard")],
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": True,
    "SIDEBAR": {"command_search": True, "navigation": "ami_headend.console.navigation.sidebar"},
    "COMMAND": {"search_callback": "ami_headend.console.search.search"},
    "ACCOUNT": {
        "navigation": [
            {"title": "Sign-in and second factor", "link": reverse_lazy("admin:sign-in")},
            {"title": "Change password", "link": reverse_lazy("admin:password_change")},
        ]
    },
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": logs.LineFormatter, "format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {
        "without_traceback": {"()": "django.utils.log.CallbackFilter", "callback": logs.without_traceback},
        "in_one_line": {"()": "django.utils.log.CallbackFilter", "callback": logs.in_one_line},
        "with_sender": {"()": "django.utils.log.CallbackFilter", "callback": logs.with_sender},
        "no_routine": {"()": "django.utils.log.CallbackFilter", "callback": logs.is_no_routine},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    # Two lines for every uplink would drown the rest; failures of tasks are above INFO.
    "loggers": {
        **{name: {"level": "WARNING"} for name in ("celery.worker.strategy", "celery.app.trace", "httpx", "axes")},
        "celery.beat": {"filters": ["no_routine"]},
        "django.request": {"filters": ["without_traceback", "with_sender"]},
        **{
            f"django.security.{name}": {"filters": ["in_one_line"]}
            for name in ("DisallowedHost", "TooManyFieldsSent", "TooManyFilesSent", "RequestDataTooBig")
        },
        "waitress": {"level": "WARNING"},
    },
    "root": {"handlers": ["stderr"], "level": env.log_level("LOG_LEVEL", logging.INFO)},
}
