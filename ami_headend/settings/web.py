"""The web server: its apps, middleware and API; its threads, timeouts and sizes."""

from ami_headend.settings.environment import BASE_DIR, VAR_DIR, env

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "ami_headend.console.apps.ConsoleConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "axes",
    "csp",
    "ami_headend",
    "django.contrib.staticfiles",  # after ours, whose collectstatic replaces its own
    "ami_headend.alerts",
    "ami_headend.api_tokens",
    "ami_headend.metrics",
    "ami_headend.siem",
    "ami_headend.signin",
    "concentrators",
    "meters",
    "keyvault",
]

MIDDLEWARE = [
    "ami_headend.core.client_ip.ForwardedAddress",
    "ami_headend.web.content_policy.ContentPolicy",
    "ami_headend.health.probes.Probes",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "ami_headend.web.caching.NoStore",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "ami_headend.signin.sessions.SessionLimits",
    "ami_headend.web.wellformed.WellFormed",
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
        "DIRS": [BASE_DIR / "ami_headend" / "templates"],  # before unfold's own, for the text of an empty list
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
        "ami_headend.api_tokens.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
        "ami_headend.signin.authentication.PasswordAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["ami_headend.web.problems.ViewPermission"],
    "DEFAULT_THROTTLE_CLASSES": ["ami_headend.api_tokens.authentication.TokenThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ami_headend.web.problems.ShallowJSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "ami_headend.web.problems.Negotiation",
    "DEFAULT_METADATA_CLASS": "ami_headend.web.problems.Methods",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "ami_headend.web.problems.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ami-headend",
    "DESCRIPTION": "Head-end system for smart metering: uplinks come in, verified readings go out.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",  # what follows it groups the operations
    "TAGS": [
        {"name": "meters", "description": "Meters, missing data of each, and commands to them."},
        {"name": "readings", "description": "Values that meters measured."},
        {"name": "events", "description": "Events that meters reported about themselves."},
        {"name": "codes", "description": "What events, registers and qualities are called outside."},
        {"name": "totals", "description": "Sums over the meters of a concentrator, interval by interval."},
        {"name": "completeness", "description": "Which share of expected intervals had arrived by deadlines."},
        {"name": "deadlines", "description": "By when the readings of a day are due, and how the days were."},
        {"name": "places", "description": "Places where meters hang."},
        {"name": "groups", "description": "Groups and tags of meters, places and concentrators."},
        {"name": "keys", "description": "The status of device keys; never their octets."},
        {"name": "failures", "description": "Frames that were rejected."},
        {"name": "feed", "description": "What was verified or corrected, in the order of commits, for billing."},
        {"name": "alerts", "description": "Problems that were found, and their history."},
        {"name": "resends", "description": "Gap recovery: missing intervals ordered again from many meters."},
        {"name": "held-commands", "description": "Commands that wait for a second person, to release or refuse."},
        {"name": "clock-corrections", "description": "Spans in which the head-end's own clock was off."},
        {"name": "rotations", "description": "Rollouts of new device keys."},
        {"name": "tokens", "description": "Tokens by which programs use this API."},
        {"name": "uplinks", "description": "For concentrators: frames come in."},
        {"name": "commands", "description": "For concentrators: commands go out."},
        {"name": "push profiles", "description": "What the columns of DLMS notifications are."},
        {"name": "enrolment", "description": "Authorities, their certificates and revocations; who may enrol."},
        {"name": "hop-keys", "description": "For concentrators that hold keys: how they check hop tags."},
        {"name": "next-key", "description": "For concentrators that hold keys: their own next one."},
        {"name": "hop-failures", "description": "For concentrators that hold keys: what they dropped."},
    ],
    # What a meter may have, and what the head-end can give it: fields of the same name, with choices of their own.
    "ENUM_NAME_OVERRIDES": {
        "SchemeEnum": "keyvault.schemes.table.scheme_choices",
        "NewSchemeEnum": "keyvault.schemes.table.new_scheme_choices",
        "AlgorithmEnum": "keyvault.schemes.table.algorithm_choices",
        "DayStatusEnum": "concentrators.api.read_success.STATUSES",
        "DeliveryKindEnum": "concentrators.models.DeliveryKind",
        "NewAlgorithmEnum": "keyvault.schemes.table.new_algorithm_choices",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "ami_headend.web.problems.document_problems",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- threads, times and sizes --------------------------------------------------------------------
URL_PREFIX = env.str("URL_PREFIX", "").rstrip("/")  # such as "/ami", if the proxy serves it below a path
FORCE_SCRIPT_NAME = URL_PREFIX or None
WEB_INGEST_THREADS = env.int("WEB_INGEST_THREADS", 4)  # of each process, for concentrators
WEB_PAGE_THREADS = env.int("WEB_PAGE_THREADS", 4)  # for pages and the rest of the API
WEB_PROGRAM_THREADS = env.int("WEB_PROGRAM_THREADS", 2)  # for programs, by token or password
WEB_EXPORT_THREADS = env.int("WEB_EXPORT_THREADS", 2)  # for files of any length
WEB_POST_S = env.float("WEB_POST_S", 6.0)  # a concentrator gets its answer within this time: 503 at the latest
WEB_PROBE_S = env.float("WEB_PROBE_S", 4.0)  # and so does a probe
WEB_PAGE_S = env.float("WEB_PAGE_S", 60.0)
WEB_EXPORT_S = env.float("WEB_EXPORT_S", 1800.0)
WEB_SILENCE_S = env.float("WEB_SILENCE_S", 30.0)  # a process that gives no sign of life for this long is replaced
WEB_HEAD_S = env.float("WEB_HEAD_S", 10.0)  # the headers of a request must arrive within this time
WEB_REQUEST_S = env.float("WEB_REQUEST_S", 60.0)  # and its body
WEB_IDLE_S = env.float("WEB_IDLE_S", 75.0)  # of a connection between requests; longer than the proxy's
WEB_ANSWER_S = env.float("WEB_ANSWER_S", 3600.0)  # a client must read its answer within this time
WEB_CONNECTIONS = env.int("WEB_CONNECTIONS", 1000)  # of each process
WEB_SPOOL_OCTETS = env.int("WEB_SPOOL_OCTETS", 2 * 1024**3)  # of requests and answers in transit, in each process

# Passwords that the API verified within the last minute (signin.authentication), only in this process's memory.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 1_000}}}
DEFAULT_EXCEPTION_REPORTER = "ami_headend.web.debug_pages.Reporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "ami_headend.web.debug_pages.Filter"
