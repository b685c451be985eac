"""Processes of the head-end that begin where the libraries are loaded: forked, instead of started from nothing.

Tests start hundreds of them, and most of what each costs is loading what no setting changes. One process per test
process loads that once (`python -m tests.flows.warm`) and is forked for each command: a process of its own, with its
own environment, session, files, signals and exit code, that reads its settings and loads our code as any other does,
but for our pure modules, which know no settings.
How a process starts from nothing is tested where `up` and `demo` are (tests/test_commands.py, test_terminal.py).
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

_REQUEST_OCTETS = 1 << 20
# Libraries that read no setting while they load.
_LIBRARIES = (
    "authlib.integrations.requests_client", "cbor2", "celery.app.amqp", "celery.app.control",
    "celery.app.events", "celery.app.log", "celery.app.task", "celery.app.trace", "celery.apps.beat",
    "celery.apps.worker", "celery.beat", "celery.bin.beat", "celery.bin.celery", "celery.bin.worker",
    "celery.concurrency.asynpool", "celery.concurrency.prefork", "celery.events.state", "celery.fixups.django",
    "celery.loaders.app", "celery.worker.components", "celery.worker.consumer", "celery.worker.control",
    "celery.worker.strategy", "concurrent.futures.thread", "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.concatkdf", "cryptography.hazmat.primitives.kdf.hkdf",
    "cryptography.hazmat.primitives.kdf.pbkdf2", "cryptography.x509", "csp.middleware", "dateutil.parser",
    "dj_database_url", "django.contrib.admin", "django.contrib.admin.templatetags.admin_list",
    "django.contrib.admin.views.main", "django.contrib.auth.hashers", "django.contrib.messages.middleware",
    "django.contrib.messages.storage.fallback", "django.contrib.postgres.aggregates",
    "django.contrib.postgres.fields", "django.contrib.postgres.indexes", "django.contrib.postgres.search",
    "django.contrib.sessions.middleware", "django.contrib.staticfiles.storage", "django.core.handlers.wsgi",
    "django.core.mail.backends.smtp", "django.core.management.commands.migrate", "django.core.serializers.json",
    "django.core.servers.basehttp", "django.db.backends.postgresql.base", "django.db.migrations.executor",
    "django.db.models", "django.middleware.clickjacking", "django.middleware.common", "django.middleware.csrf",
    "django.middleware.security", "django.template.loader_tags", "django.template.loaders.app_directories",
    "django.template.loaders.cached", "django.template.loaders.filesystem", "django.test.client",
    "django.test.utils", "django.views.debug", "django.views.generic", "django_stubs_ext", "environs", "httpx",
    "inflection", "joserfc.jwe", "joserfc.jwk", "joserfc.jwt", "kombu.transport.redis", "limits.storage",
    "limits.strategies", "logging.config", "nacl.bindings", "nacl.signing", "paramiko",
    "prometheus_client.core", "prometheus_client.exposition", "psutil", "psycopg", "psycopg.types.json",
    "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "pyarrow.parquet", "redis", "requests", "rich.console",
    "rich.live", "rich.progress", "rich.table", "segno", "sqlparse", "tenacity", "uritemplate",
    "urllib.request", "waitress.server", "waitress.task", "whitenoise.middleware", "yaml", "zstandard",
)  # fmt: skip
# What the dynamic linker and the interpreter read when they start: a process that sets them starts from nothing.
_EARLY = ("LD_", "PYTHON", "MALLOC_", "COVERAGE_", "OPENSSL_", "SSL_")


class Process:
    """A process that was forked so, with what tests need of `subprocess.Popen`."""

    def __init__(self, job: socket.socket, args: list[str], pid: int) -> None:
        self._job, self.args, self.pid = job, args, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. TimeoutExpired after ``timeout`` seconds."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._job], [], [], timeout_s)[0]:
            self.returncode = int(self._job.recv(_REQUEST_OCTETS).decode())
            self._job.close()
        return self.returncode


Started = Process | subprocess.Popen[bytes]


def start(command: list[str], env: Mapping[str, str], output: IO[Any], errors: IO[Any] | None = None) -> Started:
    """A Python command in a session of its own, with nothing to read; in the folder of this process."""
    if not _may_be_warm(env):
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors or output, start_new_session=True
        )
    job = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    job.connect(_address())
    request = json.dumps([command[1:], dict(env), str(Path.cwd())]).encode()
    with Path(os.devnull).open("rb") as nothing:
        socket.send_fds(job, [request], [nothing.fileno(), output.fileno(), (errors or output).fileno()])
    return Process(job, command, int(job.recv(_REQUEST_OCTETS).decode()))


def run(command: list[str], env: Mapping[str, str], timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    """A Python command to its end, and what it wrote. TimeoutExpired where it takes longer; it is killed then."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(command, env, output, errors)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(command, code, *texts)


def _may_be_warm(env: Mapping[str, str]) -> bool:
    """Whether what is read before any of our code says nothing else than here, and nobody measures what is run."""
    early = {name: value for name, value in env.items() if name.startswith(_EARLY)}
    is_measured = any(name.startswith("COVERAGE_") for name in os.environ)
    return not is_measured and all(os.environ.get(name) == value for name, value in early.items())


@functools.cache
def _address() -> str:
    """Where the process listens that is forked; it is started here, and ends with this one."""
    address = str(Path(tempfile.mkdtemp(prefix="ami-headend-warm-")) / "socket")
    process = subprocess.Popen([sys.executable, "-m", "tests.flows.warm", address], stdin=subprocess.PIPE)

    def end() -> None:
        with contextlib.suppress(OSError):
            process.communicate(timeout=10)  # its stdin closes

    atexit.register(end)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
            probe.connect(address)
            return address
        time.sleep(0.02)
    raise RuntimeError("the process that is forked did not start")


class _Loaded:
    """The process that has loaded the libraries, and is forked for each request."""

    def __init__(self, listening: socket.socket, woken: socket.socket) -> None:
        self._listening, self._woken = listening, woken
        self._jobs: dict[int, socket.socket] = {}

    def serve(self) -> Callable[[], None]:
        """Fork for each request, tell how each ends; gives what a child has to do, in the child."""
        while True:
            ready, _, _ = select.select([self._listening, self._woken, sys.stdin], [], [])
            if sys.stdin in ready:
                place = Path(sys.argv[1])
                place.unlink()
                place.parent.rmdir()
                os._exit(0)  # whoever started this has ended, in whichever way
            if self._woken in ready:
                self._woken.recv(_REQUEST_OCTETS)
                self._reap()
            if self._listening in ready and (work := self._fork()):
                return work

    def _fork(self) -> Callable[[], None] | None:
        job, _ = self._listening.accept()
        request, files, _, _ = socket.recv_fds(job, _REQUEST_OCTETS, 3)
        if not request:  # one that looked whether this listens
            job.close()
            return None
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate(files):
                os.dup2(file, number)
            for one in (job, self._listening, self._woken, *self._jobs.values()):
                one.close()
            return functools.partial(_begin, files, *json.loads(request))
        for file in files:
            os.close(file)
        self._jobs[pid] = job
        job.send(str(pid).encode())
        return None

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                job = self._jobs.pop(ended[0])
                with contextlib.suppress(OSError):  # nobody asks any more
                    job.send(str(os.waitstatus_to_exitcode(ended[1])).encode())
                job.close()


def _begin(files: list[int], arguments: list[str], env: dict[str, str], folder: str) -> None:
    """In the child: be what the command line says."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for file in files:
        os.close(file)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    while arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        action, _, category = arguments[1].partition("::")
        kind, _, module = category.partition(":")
        warnings.filterwarnings(action, category=getattr(__import__("builtins"), kind), module=module)  # type: ignore[arg-type]
        arguments = arguments[2:]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as python -c does
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _pure_modules() -> list[str]:
    """Our modules that know no framework and no settings: those that the contract of imports names."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    [pure] = [contract["source_modules"] for contract in contracts if contract["name"].startswith("Pure modules")]
    return list(pure)


def _main() -> Callable[[], None]:
    gc.disable()
    gc.set_threshold(10_000, 10, 10)  # of those that are forked: what loads our code makes much, and all of it stays
    for name in (*_LIBRARIES, *_pure_modules()):
        importlib.import_module(name)
    gc.freeze()
    ours, woken = socket.socketpair()
    for one in (ours, woken):
        one.setblocking(False)
    signal.set_wakeup_fd(ours.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(sys.argv[1])
        listening.listen(100)
        work = _Loaded(listening, woken).serve()
    ours.close()
    gc.enable()
    return work


if __name__ == "__main__":
    _main()()
