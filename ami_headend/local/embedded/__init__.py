"""Our own PostgreSQL and Redis for one machine: `make demo`, `up`, the tests and the benchmark.

Both come from wheels of the extra `local`, store their data in `var/`, and listen on unix sockets only. The location of
the sockets follows from the folder's name, so other processes (a command, a worker) find them. `services` starts what
DATABASE_URL and REDIS_URL do not name and stops exactly what it started; `configured` sets them for a command.
"""

from ami_headend.local.embedded.configuration import configured
from ami_headend.local.embedded.paths import (
    DATABASE_NAME,
    OWNER,
    WORKING_ROLE,
    EmbeddedError,
    database_url,
    postgres_program,
    redis_url,
    secret_key,
)
from ami_headend.local.embedded.servers import OwnService, running, services, start_postgres, start_redis, started

__all__ = [
    "DATABASE_NAME",
    "OWNER",
    "WORKING_ROLE",
    "EmbeddedError",
    "OwnService",
    "configured",
    "database_url",
    "postgres_program",
    "redis_url",
    "running",
    "secret_key",
    "services",
    "start_postgres",
    "start_redis",
    "started",
]
