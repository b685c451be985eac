"""A live stack: real web server, real worker and beat as processes, which a flow may kill and start again."""

import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

import httpx
import psutil
import pytest
import redis
from django.conf import settings
from django.test import override_settings
from kombu import Connection
from pytest_django import DjangoDbBlocker

from ami_headend.celery import app
from ami_headend.core.broker_url import celery_broker_url
from ami_headend.processes import beat_command, web_command, worker_command
from tests.flows import warm

# For httpx, which would read all authorities' certificates again for each request: 20 ms of CPU.
TRUSTED = ssl.create_default_context()
START_TIMEOUT_S = 60.0  # of a machine that does much else; it costs only whoever fails
_PORTS = range(10_000, 32_768)  # below net.ipv4.ip_local_port_range
MARK = "FLOW_STACK"  # in the environment of every process of a stack


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Waits until `ready()`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


@dataclass
class Stack:
    """The processes by name (`web`, `worker`, `beat`), the address, the children's environment and their logs.

    The children's DATABASE_URL is that of the role that owns nothing; `owner_url` is for tests that look behind.
    """

    port: int
    env: dict[str, str]
    log_dir: Path
    owner_url: str = ""
    processes: dict[str, warm.Started] = field(default_factory=dict)
    sessions: set[int] = field(default_factory=set)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def logs(self) -> str:
        """Everything that every process has written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.log_dir.glob("*.log")))

    def start(self, name: str, command: list[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts `web`, `worker` or `beat` (or any named command) and waits until it answers."""
        self._wait_started(name, self.launch(name, command, env))

    def start_all(self, *names: str) -> None:
        """Starts processes beside each other, as each needs some seconds, and waits until all of them answer."""
        offsets = {name: self.launch(name) for name in names}
        for name, offset in offsets.items():
            self._wait_started(name, offset)

    def launch(self, name: str, command: list[str] | None = None, env: Mapping[str, str] | None = None) -> int:
        """Begins a process and does not wait; gives how much stood in its log before."""
        commands = {
            "web": lambda: web_command("127.0.0.1", self.port, 1),
            "worker": lambda: worker_command(2),
            "beat": beat_command,
        }
        offset = self.log(name).stat().st_size if self.log(name).exists() else 0
        with self.log(name).open("ab") as output:
            self.processes[name] = warm.start(command or commands[name](), {**self.env, **(env or {})}, output)
        self.sessions.add(self.processes[name].pid)
        return offset

    def _wait_started(self, name: str, offset: int) -> None:
        if name == "web":
            wait_for("the web server answers", lambda: self._alive(name) and self._answers())
        elif name.startswith(("worker", "alerts")):
            wait_for("the worker is ready", lambda: self._alive(name) and self._says(name, offset, " ready."))
        elif name == "beat":
            wait_for("beat starts", lambda: self._alive(name) and self._says(name, offset, "beat: Starting"))

    def stop(self, name: str, signal: Signals = SIGTERM) -> None:
        """Ends a process: by SIGTERM in good order; by SIGKILL with its children, at whatever instruction."""
        process = self.processes.pop(name)
        self._tell(process, signal)
        self._wait_ended(process)

    @staticmethod
    def _tell(process: warm.Started, signal: Signals) -> None:
        if process.poll() is None:
            if signal == SIGKILL:
                try:
                    os.killpg(process.pid, SIGKILL)
                except ProcessLookupError:  # it began just now, and leads no group yet
                    process.send_signal(SIGKILL)
            else:
                process.send_signal(signal)

    @staticmethod
    def _wait_ended(process: warm.Started) -> None:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, SIGKILL)
            process.wait()

    def kill(self, name: str) -> None:
        """Kill -9 of a process and its children."""
        self.stop(name, SIGKILL)

    def children(self, name: str) -> list[psutil.Process]:
        """The child processes, such as the prefork processes of the worker."""
        return list(psutil.Process(self.processes[name].pid).children())

    def stop_all(self) -> None:
        """Tells all processes to end, and waits for each."""
        ending = list(self.processes.values())
        self.processes.clear()
        for process in ending:
            self._tell(process, SIGTERM)
        for process in ending:
            self._wait_ended(process)

    def living(self) -> list[int]:
        """Process ids of everything that was started with this stack's environment or in its sessions, children too."""
        mark = self.env[MARK]
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                if os.getsid(process.pid) in self.sessions or process.environ().get(MARK) == mark:
                    found.append(process.pid)
        return found

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.env["REDIS_URL"])

    def enqueue(self, task: str, *arguments: int, countdown_s: float = 0) -> None:
        """Puts a task of `concentrators.tasks` into the queue, as beat, the web server or a retry does."""
        self.send(f"concentrators.tasks.{task}", *arguments, countdown_s=countdown_s)

    def send(self, task: str, *arguments: int, countdown_s: float = 0) -> None:
        """Puts a task by its full name into its queue."""
        with Connection(celery_broker_url(self.env["REDIS_URL"])) as broker:
            app.send_task(task, arguments, countdown=countdown_s or None, connection=broker)

    def manage(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a management command against this stack's services."""
        return warm.run([sys.executable, "manage.py", *arguments], self.env, timeout_s)

    def _alive(self, name: str) -> bool:
        if self.processes[name].poll() is not None:
            pytest.fail(f"{name} ended at once:\n{self.log(name).read_text(errors='replace')[-3000:]}")
        return True

    def _answers(self) -> bool:
        if not is_open(self.port):  # which costs less than to ask
            return False
        try:
            return httpx.get(f"{self.base_url}/admin/login/", timeout=5, verify=TRUSTED).status_code < 500
        except httpx.TransportError:
            return False

    def _says(self, name: str, offset: int, text: str) -> bool:
        with self.log(name).open("rb") as file:
            file.seek(offset)
            return text.encode() in file.read()


def is_open(port: int) -> bool:
    """Whether somebody listens at a port."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    return False


def free_port() -> int:
    """A port that nobody listens at, and that stays free until a server that starts now takes it.

    Not one that the kernel would choose: it gives those to outgoing connections, of which other tests make many.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running(
    folder: Path, names: tuple[str, ...] = ("web", "worker"), environ: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """A stack over a fresh database, which is this process's own, too; `environ` overrides settings."""
    from tests.flows import databases, pooler  # noqa: PLC0415 - this module loads before Django is set up

    with databases.copied() as name, ExitStack() as around:
        url = databases.at_database(os.environ["DATABASE_URL"], name)
        working = databases.as_working_role(url)
        if mode := pooler.wanted():
            databases.bound_sessions(name, **pooler.LIMITS)
            working = around.enter_context(pooler.before(working, mode))
        environ = {"DATABASE_URL": working, "KEY_JOURNAL_DIR": str(settings.KEY_JOURNAL_DIR), **(environ or {})}
        yield around.enter_context(processes(folder, names, environ, url))


@contextmanager
def with_own_master_key(folder: Path, environ: Mapping[str, str]) -> Iterator[Stack]:
    """Web and worker with a master key of their own, which this process uses, too, until the block ends."""
    from keyvault import master_key  # noqa: PLC0415 - this module loads before Django is set up

    names = ("MASTER_KEY_FILE", "MASTER_KEY_PROVIDER", "PKCS11_MODULE", "PKCS11_TOKEN", "PKCS11_PIN_FILE")
    own = {name: environ[name] for name in names if name in environ}
    with override_settings(**own), running(folder, (), {"AMI_VAR_DIR": str(folder), **environ}) as stack:
        master_key.provider().init()
        stack.start_all("web", "worker")
        yield stack


@contextmanager
def processes(folder: Path, names: tuple[str, ...], environ: Mapping[str, str], owner_url: str) -> Iterator[Stack]:
    """The processes of a stack over the database that `environ` names; `owner_url` names it in the owner's role."""
    ours = {MARK: secrets.token_hex(), "ALERT_STAND_IN_AFTER_S": "0"}  # what is not started is not to be stood in for
    stack = Stack(free_port(), {**os.environ, **ours, **environ}, folder, owner_url)
    with stack.redis() as client:
        client.flushdb()
    try:
        stack.start_all(*names)
        yield stack
    finally:
        stack.stop_all()
        # Children of a process that was killed end with it, but not in the same instant.
        wait_for("every process of the stack has ended", lambda: stack.living() == [], 10)


def stack_of(*names: str, environ: Mapping[str, str] | None = None) -> Any:
    """A fixture: these processes for the tests of one module, on a database of their own. Not together with `db`."""

    @pytest.fixture(scope="module")
    def stack(
        django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Stack]:
        with django_db_blocker.unblock(), running(tmp_path_factory.mktemp("stack"), names, environ) as stack:
            yield stack

    return stack


live_stack = stack_of("web", "worker")
