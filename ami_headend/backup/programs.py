"""PostgreSQL's own programs: find them, check their version, and run them without secrets in their arguments."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from django.db import connection

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
# Parameters of a connection, with the environment variables from which libpq takes them.
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
    """A program of PostgreSQL is missing, has a wrong version, or failed; the message says which and why."""


class Program(NamedTuple):
    """A program and its major version."""

    path: str
    major: int


def find(name: str) -> Program:
    """Return the program (pg_dump, pg_restore): the first on the PATH that is new enough for the server.

    ProgramError if there is none.
    """
    server = connection.cursor().connection.info.server_version // 10_000
    found: list[Program] = []
    for path in _candidates(name):
        program = Program(path, _major(path))
        if program.major >= server:
            return program
        found.append(program)
    seen = "; ".join(f"{one.path} is version {one.major}" for one in found) or "none was found"
    raise ProgramError(
        f"{name} of PostgreSQL {server} or newer is needed for this server, and {seen}: install PostgreSQL's client "
        f"programs of version {server} (Debian: postgresql-client-{server}) and put them on the PATH"
    )


def environment() -> dict[str, str]:
    """Return an environment in which a program connects as this process does."""
    parameters = connection.get_connection_params()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env |= {_VARIABLES[name]: str(value) for name, value in parameters.items() if name in _VARIABLES and value}
    # A dump may take any time, and its session is silent meanwhile.
    env["PGOPTIONS"] = f"{env.get('PGOPTIONS', '')} -c idle_in_transaction_session_timeout=0 -c statement_timeout=0"
    return env


def failure(program: Program, stderr: bytes) -> ProgramError:
    """Return the error of a failed program in one line."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()] or lines or ["it did not say why"]
    return ProgramError(f"{Path(program.path).name} failed: {errors[0][:500]}")


def _candidates(name: str) -> list[str]:
    """Return every program of that name in the order of the PATH; the local stack puts the embedded one last."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [path for path in (shutil.which(name, path=folder) for folder in folders) if path is not None]


def _major(path: str) -> int:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    version = _VERSION.search(said)
    return int(version[1]) if version else 0
