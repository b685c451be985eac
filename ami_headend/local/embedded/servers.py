"""Starts, restarts and stops the embedded servers."""

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from ami_headend.local.embedded.cluster import make_cluster, make_database, owner_of, placed, postmaster, server_program
from ami_headend.local.embedded.paths import (
    EmbeddedError,
    complete,
    database_url,
    redis_program,
    redis_url,
    socket_dir,
)
from ami_headend.local.embedded.processes import (
    STOP_TIMEOUT_S,
    EmbeddedServer,
    is_living,
    launch,
    living_process,
    make_folder,
    make_runtime_folder,
    wait_until,
)


def running(var_dir: Path) -> bool:
    """Whether an embedded PostgreSQL of this folder is up, whoever started it."""
    return postmaster(var_dir.absolute() / "postgres") is not None


@dataclass
class OwnService:
    """A server that runs during the block of ``started``, and can be restarted if it was killed."""

    server: EmbeddedServer
    begin: Callable[[], EmbeddedServer]

    @property
    def name(self) -> str:
        return self.server.name

    def has_ended(self) -> bool:
        return not is_living(self.server.process)

    def restart(self) -> None:
        """Restart it. EmbeddedError if it does not start, as while PostgreSQL's last processes are ending."""
        self.server.process.wait(1)  # reap the child first: otherwise PostgreSQL would not start
        self.server = self.begin()

    def stop(self) -> None:
        self.server.stop()


@contextmanager
def services(var_dir: Path, environ: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Do the same as ``started``, but give only the environment."""
    with started(var_dir, environ) as (env, _):
        yield env


@contextmanager
def started(
    var_dir: Path, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[dict[str, str], list[OwnService]]]:
    """Run the services that `environ` does not configure, or names as this folder's own.

    Give the environment for every process that uses them, and the services. EmbeddedError with one sentence if that is
    impossible. SIGTERM inside the block ends it like an exception, so nothing stays running.
    """
    env = dict(os.environ if environ is None else environ)
    var_dir = var_dir.absolute()
    env["AMI_VAR_DIR"] = str(var_dir)
    own: list[OwnService] = []
    with ExitStack() as stack:
        stack.enter_context(_termination_as_exit())
        own_database = env.get("DATABASE_URL") in (None, "", database_url(var_dir))
        own_redis = (env.get("REDIS_URL") or redis_url(var_dir)).partition("?")[0] == redis_url(var_dir).partition("?")[
            0
        ]
        if own_database or own_redis:
            make_folder(var_dir)
            stack.enter_context(_alone_in(var_dir))
        complete(env, var_dir)
        if own_database:
            own.append(_begun(stack, partial(start_postgres, var_dir)))
            make_database(var_dir)
            env["DATABASE_URL"] = database_url(var_dir)
        if own_redis:
            own.append(_begun(stack, partial(start_redis, var_dir)))
            env["REDIS_URL"] = env.get("REDIS_URL") or redis_url(var_dir)
        yield env, own


def _begun(stack: ExitStack, begin: Callable[[], EmbeddedServer]) -> OwnService:
    service = OwnService(begin(), begin)
    stack.callback(service.stop)
    return service


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
    """Hold the folder's lock. It is a record lock: forked children do not inherit it, and the kernel frees it."""
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


def start_postgres(var_dir: Path) -> EmbeddedServer:
    """Start PostgreSQL in `var_dir`/postgres, made at first use, or take over the server of a killed run."""
    place = var_dir.absolute() / "postgres"
    owner = owner_of(place)
    data = placed(place, owner)
    sockets = socket_dir(var_dir, "postgres")
    runtime = None if sockets == place else sockets
    if not (data / "PG_VERSION").exists():
        make_cluster(data, owner)
    left = postmaster(data)
    if left is not None:
        return EmbeddedServer("PostgreSQL", left, signal.SIGINT, runtime)
    ending = living_process(data / "postmaster.pid", "postgres")  # of a run that was killed just now
    if ending is not None:
        with suppress(psutil.TimeoutExpired):
            ending.wait(STOP_TIMEOUT_S)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{runtime or data}"',  # a list: quoted for a comma in the path
        "unix_socket_permissions": "0700",
        "shared_buffers": f"{min(psutil.virtual_memory().total // 8, 1 << 30) >> 20}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "log_min_messages": "warning",
        "timezone": "UTC",
    }  # the wheel is built without lz4; fsync and synchronous_commit stay on
    command = [server_program("postgres", owner), "-D", str(data)]
    command += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    if runtime is not None:
        make_runtime_folder(runtime, owner)
    process = launch(command, var_dir / "postgres.log", owner, signal.SIGINT)
    server = EmbeddedServer("PostgreSQL", process, signal.SIGINT, runtime)  # SIGINT is its fast shutdown
    wait_until(server, lambda: postmaster(data) is not None, var_dir / "postgres.log")
    return server


def start_redis(var_dir: Path) -> EmbeddedServer:
    """Start Redis on a unix socket without anything on disk: it may lose every task."""
    program, sockets = redis_program(), socket_dir(var_dir, "redis")
    runtime = None if sockets.parent == var_dir.absolute() else sockets
    if runtime is None:
        make_folder(sockets)
    else:
        make_runtime_folder(runtime, None)
    socket_path = sockets / "redis.sock"
    pid_file = socket_path.with_name("redis.pid")
    left = living_process(pid_file, "redis-server")
    if left is not None:
        return EmbeddedServer("Redis", left, signal.SIGTERM, runtime)
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
    command = [program] + [part for key, value in options.items() for part in (f"--{key}", value)]
    process = launch(command, var_dir / "redis.log", None, signal.SIGTERM)
    server = EmbeddedServer("Redis", process, signal.SIGTERM, runtime)
    wait_until(server, socket_path.is_socket, var_dir / "redis.log")
    pid_file.write_text(f"{server.process.pid}\n")
    return server
