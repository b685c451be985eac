"""The head-end on one machine: prepares its services, supervises its processes, and stops everything together."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connections

from ami_headend.core.client_ip import is_loopback
from ami_headend.local import embedded
from ami_headend.local.display import Lines
from ami_headend.local.embedded import OwnService
from ami_headend.local.embedded.processes import tethered
from ami_headend.local.supervision import LocalSupervisor, RestartsError
from ami_headend.processes import beat_command, web_command, worker_command
from keyvault import master_key
from keyvault.models import DeviceKey, FleetKey

ADMIN = "admin"


class LocalStackError(Exception):
    """The stack cannot start or did not stay up; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Prepared:
    """The environment of every process, our own services, the address, and the account to sign in with."""

    env: dict[str, str]
    services: list[OwnService]
    address: str
    account: str


@contextmanager
def prepared(host: str, port: int) -> Iterator[Prepared]:
    """Run the services, migrate the database, make keys and account; stop on leaving what was started.

    LocalStackError, EmbeddedError or MasterKeyError, each with one sentence.
    """
    require_free(host, port)
    own_database = settings.IS_EMBEDDED
    with embedded.started(settings.VAR_DIR) as (env, own):
        if is_loopback(host):
            env.setdefault("TLS", "0")
        try:
            call_command("migrate", interactive=False, verbosity=0)
            _prepare_master_key(own_database)
            account = _prepare_account(Path(settings.VAR_DIR) / "admin.password", own_database)
        except OperationalError as error:
            raise LocalStackError(f"The database does not answer: {str(error).splitlines()[0]}") from error
        call_command("collectstatic", interactive=False, verbosity=0)
        connections.close_all()
        yield Prepared(env, own, f"http://{'localhost' if is_loopback(host) else host}:{port}/", account)


def require_free(host: str, port: int) -> None:
    """LocalStackError if the web server could not listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise LocalStackError(
            f"Cannot listen on {host} port {port} ({getattr(error, 'strerror', None) or error}): stop what listens "
            "there, or, if it is no head-end of this folder, choose another port with --port, or PORT= for make."
        ) from error


def supervise(commands: Mapping[str, list[str]], ready: "Prepared", panel: str = "") -> None:
    """Run the commands side by side until an interrupt; those that end are restarted, and services too.

    The output of the command ``panel`` refreshes in place. LocalStackError if something ended too often.
    """
    lines = Lines(list(commands), panel)
    try:
        LocalSupervisor(commands, ready.services, ready.env, settings.BASE_DIR, lines).run()
    except RestartsError as error:
        raise LocalStackError(str(error)) from error
    finally:
        lines.close()


@contextmanager
def head_end(answers: Callable[[str], bool], start_s: float) -> Iterator[str]:
    """Run a head-end on a free port until the block ends; give its address. Its output goes to simulate.log in `var/`.

    LocalStackError if it does not answer within `start_s` seconds, and errors of ``prepared``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = [web_command("127.0.0.1", port, 1), worker_command(2), beat_command()]
    with prepared("127.0.0.1", port) as ready, (settings.VAR_DIR / "simulate.log").open("ab") as log:
        # In sessions of their own: the caller handles Ctrl-C and ends them last. If it is killed, they end, too.
        started = [
            subprocess.Popen(
                command,
                env=ready.env,
                cwd=settings.BASE_DIR,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=tethered(signal.SIGTERM),  # noqa: PLW1509 - this process has one thread yet
            )
            for command in commands
        ]
        try:
            deadline = time.monotonic() + start_s
            while not answers(ready.address):
                if time.monotonic() > deadline or any(process.poll() is not None for process in started):
                    raise LocalStackError(f"The head-end did not start; {log.name} says why.")
                time.sleep(0.2)
            yield ready.address
        finally:
            _end(started)


def _end(started: list["subprocess.Popen[bytes]"]) -> None:
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _prepare_master_key(own_database: bool) -> None:
    path = Path(settings.MASTER_KEY_FILE)
    if settings.MASTER_KEY_PROVIDER != master_key.FILE or path.exists():
        master_key.probe()  # reports its faults now rather than at the first frame
        return
    if DeviceKey.objects.exclude(wrapped=None).exists() or FleetKey.objects.exists():
        raise LocalStackError(
            f"The master key file {path} is missing, and the database holds keys that only it opens: put it back."
        )
    if not own_database:
        raise LocalStackError(
            f"There is no master key file {path}: make one with manage.py master_key init, or name it in "
            "MASTER_KEY_FILE."
        )
    master_key.init(path)


def _prepare_account(password_file: Path, own_database: bool) -> str:
    """Make an administrator for a database without one; the password is stored only for our own database."""
    users = get_user_model().objects
    if not users.filter(is_superuser=True).exists():
        password = secrets.token_urlsafe(12)
        users.create_superuser(ADMIN, password=password)
        if own_database:
            with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(password + "\n")
            return f"{ADMIN}, password {password} (stored in {password_file})"
        return f"{ADMIN}, password {password} (shown only once)"
    stored = password_file.read_text().strip() if own_database and password_file.exists() else ""
    user = users.filter(username=ADMIN).first()
    if stored and user is not None and user.check_password(stored):
        return f"{ADMIN}, password {stored} (stored in {password_file})"
    return "unchanged (manage.py changepassword sets another password)"
