"""PostgreSQL's own programs: found, checked for their version, and run without a secret in their arguments."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from django.db import connection

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# Parameters of a connection by the environment variable that libpq takes them from.
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}


class ProgramError(Exception):
    """A program of PostgreSQL is missing, of a wrong version, or failed; the message says which and why."""


class Program(NamedTuple):
    """A program and its major version."""

    path: str
    major: int


def find(name: str) -> Program:
    """The program (pg_dump, pg_restore): the first on the PATH that is new enough for the server.

    Raises ProgramError where none is.
    """
    server = connection.cursor().connection.info.server_version // 10_000
    found: list[Program] = []
    for path in _candidates(name):
        program = Program(path, _major(path))
        if program.major >= server:
            return program
        found.append(program)
    seen = "; ".join(f"{one.path} is of version {one.major}" for one in found) or "none was found"
    raise ProgramError(
        f"{name} of PostgreSQL {server} or newer is needed for this server, and {seen}: install PostgreSQL's client "
        f"programs of version {server} (Debian: postgresql-client-{server}) and put them on the PATH"
    )


def environment() -> dict[str, str]:
    """The environment in which a program connects as this process does."""
    parameters = connection.get_connection_params()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env |= {_VARIABLES[name]: str(value) for name, value in parameters.items() if name in _VARIABLES and value}
    # A dump takes as long as it takes, and its session says nothing to the server meanwhile.
    env["PGOPTIONS"] = f"{env.get('PGOPTIONS', '')} -c idle_in_transaction_session_timeout=0 -c statement_timeout=0"
    return env


def failure(program: Program, stderr: bytes) -> ProgramError:
    """What a program that failed has said, in one line."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()] or lines or ["it did not say why"]
    return ProgramError(f"{Path(program.path).name} failed: {errors[0][:500]}")


def _candidates(name: str) -> list[str]:
    """Every program of that name on the PATH, in its order; the local stack puts the embedded database's own last."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [path for path in (shutil.which(name, path=folder) for folder in folders) if path is not None]


def _major(path: str) -> int:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    version = _VERSION.search(said)
    return int(version[1]) if version else 0
