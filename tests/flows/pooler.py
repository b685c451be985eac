"""PgBouncer in front of the test database, where it is installed: in session mode, or in that which does not work.

FLOWS_POOLER=session leads the processes of every live stack through one: `FLOWS_POOLER=session pytest tests/flows`.
"""

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ami_headend.local.embedded.processes import EmbeddedServer, launch, wait_until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# Of the role, behind one (docs/scaling.md).
LIMITS = {
    "idle_in_transaction_session_timeout": "10min",
    "statement_timeout": "15min",
    "lock_timeout": "30s",
    "client_connection_check_interval": "2s",
}
_PORT = 6432


def wanted() -> str | None:
    """The mode that FLOWS_POOLER asks for."""
    return os.environ.get("FLOWS_POOLER")


@contextmanager
def before(database_url: str, mode: str) -> Iterator[str]:
    """Runs PgBouncer before the server of an address in this mode; gives the address that leads through it."""
    url = urlsplit(database_url)
    place = str(Path(unquote(parse_qs(url.query)["host"][0] if url.query else url.hostname or "")).resolve())
    owner = pwd.getpwuid(Path(place).stat().st_uid) if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pooler-", dir=os.environ.get("EMBEDDED_DATA_DIR")))
    try:
        _configure(folder, place, url.username or "", unquote(url.password or ""), mode)
        if owner is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        log = folder / "pgbouncer.log"
        process = launch([str(PROGRAM), str(folder / "pgbouncer.ini")], log, owner, signal.SIGINT)
        server = EmbeddedServer("PgBouncer", process, signal.SIGTERM)
        wait_until(server, (folder / f".s.PGSQL.{_PORT}").is_socket, log)
        try:
            account = url.netloc.rpartition("@")[0]
            yield f"{url.scheme}://{account}@{quote(str(folder), safe='')}:{_PORT}{url.path}"
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, place: str, user: str, password: str, mode: str) -> None:
    (folder / "users.txt").write_text(f'"{user}" "{password}"\n')
    settings = {
        "pool_mode": mode,
        "unix_socket_dir": folder,
        "listen_port": _PORT,
        "auth_type": "trust",
        "auth_file": folder / "users.txt",
        "ignore_startup_parameters": "options,extra_float_digits",
        "default_pool_size": 100,
        "max_client_conn": 500,
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    text = f"[databases]\n* = host={place}\n[pgbouncer]\n" + "\n".join(lines) + "\n"
    (folder / "pgbouncer.ini").write_text(text)
