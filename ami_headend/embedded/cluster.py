"""PostgreSQL's data folder and its owner, and what is made in a new cluster."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from ami_headend.embedded.places import (
    DATABASE_NAME,
    OWNER,
    POSTGRES_MAJOR,
    WORKING_ROLE,
    EmbeddedError,
    postgres_program,
    socket_dir,
)
from ami_headend.embedded.processes import launch, living_process, make_folder

POSTGRES_USER = "pgserver"  # PostgreSQL refuses to run as root; root runs it as this user


def owner_of(data: Path) -> pwd.struct_passwd | None:
    """The user that must run the server: None for ourselves. Refuses a folder that is not our cluster."""
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
        owner = pwd.getpwuid(data.stat().st_uid)  # made by an ordinary user before: stays theirs
    else:
        owner = _postgres_user()
    _let_pass(data.parent)
    _let_pass(Path(postgres_program("postgres")).parent)
    _let_read(Path(postgres_program("postgres")))
    return owner


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


def _let_pass(folder: Path) -> None:
    """Lets other users pass through (not list) the folders above, which PostgreSQL's own user must cross."""
    for place in (folder, *folder.parents):
        mode = place.stat().st_mode
        if not mode & stat.S_IXOTH:
            place.chmod(stat.S_IMODE(mode) | stat.S_IXGRP | stat.S_IXOTH)


def _let_read(program: Path) -> None:
    """Opens the wheel's files to other users where a strict umask installed them for root alone."""
    if not program.stat().st_mode & stat.S_IXOTH:
        for path in program.parent.parent.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def make_cluster(data: Path, owner: pwd.struct_passwd | None) -> None:
    """Makes the cluster beside its place and renames it, so that a killed run leaves none by halves."""
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    if owner is not None:
        os.chown(draft, owner.pw_uid, owner.pw_gid)
    # Trust is safe here: the sockets lie in folders that only their owner may enter.
    command = [postgres_program("initdb"), "--auth=trust", "-U", OWNER, "--encoding=UTF8", "--locale=C"]
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
    """The postmaster of a data folder once it takes connections (its pid file says `ready`)."""
    try:
        ready = (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return None
    return living_process(data / "postmaster.pid", "postgres") if ready else None


def make_database(var_dir: Path) -> None:
    """Makes our database in the cluster, and the role of web and workers, unless they are there."""
    host = str(socket_dir(var_dir, "postgres"))
    with psycopg.connect(host=host, user=OWNER, dbname="postgres", autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [WORKING_ROLE]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(WORKING_ROLE)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))
