"""The protection of keys, sessions and accounts: the master key, TLS and cookies, sign-in."""

from datetime import timedelta

from ami_headend.settings.databases import IS_EMBEDDED
from ami_headend.settings.environment import VAR_DIR, env
from ami_headend.web.content_policy import CONSOLE

DEBUG = env.bool("DEBUG", False)

# --- keys ----------------------------------------------------------------------------------------
MASTER_KEY_PROVIDER = env.str("MASTER_KEY_PROVIDER", "file")  # or pkcs11
MASTER_KEY_FILE = env.path("MASTER_KEY_FILE", VAR_DIR / "master.keys")
PKCS11_MODULE = env.str("PKCS11_MODULE", "")  # the library of the HSM's maker
PKCS11_TOKEN = env.str("PKCS11_TOKEN", "")  # the token's label
PKCS11_PIN_FILE = env.str("PKCS11_PIN_FILE", "")  # mode 0600
MASTER_KEY_DESTROY_AFTER_DAYS = env.int("MASTER_KEY_DESTROY_AFTER_DAYS", 30)  # since it became decrypt_only
IS_PRODUCTION = not DEBUG and not IS_EMBEDDED  # as every deployment is recognised that follows the documents
# Key exports and the destruction of a master key version need a second person. On in every deployment.
REQUIRE_APPROVAL = env.bool("REQUIRE_APPROVAL", IS_PRODUCTION)
APPROVAL_EXPIRES_HOURS = env.int("APPROVAL_EXPIRES_HOURS", 72)
KEY_JOURNAL_DIR = env.path("KEY_JOURNAL_DIR", VAR_DIR / "journal")  # not on the database's disk
KEY_JOURNAL_MIRRORS: list[str] = env.list("KEY_JOURNAL_MIRRORS", [])  # folders at other places
KEY_JOURNAL_MIRRORS_NEEDED = env.str("KEY_JOURNAL_MIRRORS_NEEDED", "none")  # before an act commits: none, one, all
KEY_JOURNAL_MIRROR_S = env.float("KEY_JOURNAL_MIRROR_S", 5.0)  # an act waits so long for them
# The database may fail over to a standby that lacks the last commits: each promotion then asks for a replay.
DATABASE_STANDBYS = env.int("DATABASE_STANDBYS", 0)  # that should follow the primary; 0: they are not looked for
STANDBY_MAY_LAG = env.bool("STANDBY_MAY_LAG", False)
BACKUP_DIR = env.path("BACKUP_DIR", VAR_DIR / "backups")
BACKUP_KEEP_DAYS = env.int("BACKUP_KEEP_DAYS", 35)

# --- requests and cookies --------------------------------------------------------------------------
SECRET_KEY = env.str("SECRET_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
# Behind a TLS proxy. Off only for a stack that only this machine can reach (demo, up, tests).
TLS = env.bool("TLS", True)
SECURE_SSL_REDIRECT = TLS
SECURE_REDIRECT_EXEMPT = [r"^health/"]  # probes do not pass through the proxy
SESSION_COOKIE_SECURE = TLS
CSRF_COOKIE_SECURE = TLS
# With this prefix, browsers accept the cookies only from this very host over TLS: no sibling host can set one.
SESSION_COOKIE_NAME = "__Host-sessionid" if TLS else "sessionid"
CSRF_COOKIE_NAME = "__Host-csrftoken" if TLS else "csrftoken"
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", 31_536_000) if TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = TLS
SECURE_HSTS_PRELOAD = TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TLS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {"DIRECTIVES": CONSOLE}
# The number of our own proxies in front of the web server; each appends to X-Forwarded-For.
PROXY_COUNT = env.int("PROXY_COUNT", 1 if TLS else 0)

# --- accounts ------------------------------------------------------------------------------------
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
# Sorted lines of SHA-1:count, as haveibeenpwned-downloader writes them. Without it, Django's 20,000 common passwords.
BREACHED_PASSWORDS_FILE = env.str("BREACHED_PASSWORDS_FILE", "")

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "ami_headend.signin.passwords.OnlyWherePasswordsAreTaken",
    "django.contrib.auth.backends.ModelBackend",
]
# For superusers, and for everyone who may act on keys or accounts. Off only for a stack that only this machine can
# reach; an account that has a second factor must still use it.
TWO_FACTOR_REQUIRED = env.bool("TWO_FACTOR_REQUIRED", TLS or not IS_EMBEDDED)
OTP_TOTP_ISSUER = "ami-headend"
SIGN_IN_FAILURES = env.int("SIGN_IN_FAILURES", 5)  # of one account from one address, before it is locked
SIGN_IN_LOCKOUT_S = env.int("SIGN_IN_LOCKOUT_S", 900)
SIGN_IN_KEEP_DAYS = env.int("SIGN_IN_KEEP_DAYS", 400)  # the journal of sign-ins
ACCESS_KEEP_DAYS = env.int("ACCESS_KEEP_DAYS", 400)  # the record of who looked at households' data
API_TOKEN_DAYS_MAX = env.int("API_TOKEN_DAYS_MAX", 366)  # how long a secret of a program's token is valid, at most
API_TOKEN_RATE = env.str("API_TOKEN_RATE", "600/minute")  # requests of each token
SESSION_IDLE_S = env.int("SESSION_IDLE_S", 1800)
SESSION_ABSOLUTE_S = env.int("SESSION_ABSOLUTE_S", 12 * 3600)
SESSION_COOKIE_AGE = SESSION_ABSOLUTE_S
SESSION_ENGINE = "ami_headend.signin.session_store"
# How long after a sign-in or another proof people may act on accounts, keys, tokens and the like without a new proof.
STEP_UP_S = env.int("STEP_UP_S", 300)
# By account and address together: nobody elsewhere can lock an account out, and each lock ends by itself.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_HANDLER = "ami_headend.signin.attempts.Attempts"
AXES_FAILURE_LIMIT = SIGN_IN_FAILURES
AXES_COOLOFF_TIME = timedelta(seconds=SIGN_IN_LOCKOUT_S)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "ami_headend.core.client_ip.client_address"
AXES_WHITELIST_CALLABLE = "ami_headend.signin.unknown_clients.is_untold"
AXES_USERNAME_CALLABLE = "ami_headend.signin.lockout.name_given"
AXES_LOCKOUT_CALLABLE = "ami_headend.signin.lockout.answer"
AXES_DISABLE_ACCESS_LOG = True  # the journal counts attempts in a bounded number of rows
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
AXES_SENSITIVE_PARAMETERS = ["username", "code", "csrfmiddlewaretoken"]  # stored nowhere, like passwords
