"""PostgreSQL, in the working role of web and workers and in the role that owns the tables; Redis."""

from typing import Any

from environs import EnvError

from ami_headend.settings.environment import env, require

require()
DATABASE_URL = env.str("DATABASE_URL")
# Only the local stack names its own database a second time.
IS_EMBEDDED = env.str("EMBEDDED_DATABASE_URL", "") == DATABASE_URL
# The role that owns the tables: for migrate, grant_rights and other changes of tables. Web and workers do not need it.
OWNER_DATABASE_URL = env.str("OWNER_DATABASE_URL", "")
REDIS_URL = env.str("REDIS_URL")
if not REDIS_URL.startswith(("redis://", "rediss://", "unix://")):
    raise EnvError("REDIS_URL must begin with redis://, rediss:// or unix://.")


def _database(variable: str) -> dict[str, Any]:
    """Return Django's parameters of a connection to PostgreSQL."""
    database: dict[str, Any] = dict(env.dj_db_url(variable))
    if database["ENGINE"] != "django.db.backends.postgresql":
        raise EnvError(f"{variable} must begin with postgres://: the head-end needs PostgreSQL.")
    database |= {"ENGINE": "ami_headend.core.postgresql", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
    # Django's default never prepares statements: every batch statement would be planned again, for long arrays as scans
    # of whole tables. (OPTIONS also holds options of the URL, such as the host of a socket.)
    options = database.setdefault("OPTIONS", {})
    options["prepare_threshold"] = 5
    # A host that loses power does not close its connection. With default settings its session would hold locks for
    # hours, and with them a concentrator's turn, counters and totals; a client would wait as long for a server that is
    # gone.
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


DATABASES = {"default": _database("DATABASE_URL")}
# Not a second entry of DATABASES: only database_roles.as_owner uses this role.
OWNER_DATABASE = (
    {
        name: value
        for name, value in _database("OWNER_DATABASE_URL").items()
        if name in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    }
    if OWNER_DATABASE_URL
    else None
)
