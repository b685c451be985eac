"""Processes of embedded services and their folders: start, wait, find again, end."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ami_headend.local.embedded.paths import EmbeddedError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class EmbeddedServer:
    """A running service: its process (a child, or one left by a killed run), how to stop it, and the folder under /tmp
    of its socket, if it has one, which goes with it.
    """

    name: str
    process: psutil.Popen | psutil.Process
    stop_signal: signal.Signals
    runtime_folder: Path | None = None

    def stop(self) -> None:
        with suppress(psutil.NoSuchProcess):
            try:
                self.process.send_signal(self.stop_signal)
                self.process.wait(STOP_TIMEOUT_S)
            except psutil.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT_S)
        if self.runtime_folder is not None:
            _remove_runtime_folder(self.runtime_folder)


def tethered(number: signal.Signals) -> Callable[[], None] | None:
    """Return a function to run in a child before it executes a program, so that the kernel signals it when its parent
    dies.

    None outside Linux. There the parent is the thread that started it: only children of the main thread are tethered.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def tether() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # the parent died meanwhile
            os._exit(1)

    return tether


def is_living(process: psutil.Process) -> bool:
    """Whether a process runs and is not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def launch(command: list[str], log: Path, owner: pwd.struct_passwd | None, end_signal: signal.Signals) -> psutil.Popen:
    """Start a server in a session of its own, so that Ctrl-C reaches it only through us, and last.

    If this process is killed, the server gets ``end_signal``.
    """
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
                preexec_fn=tethered(end_signal),
                cwd="/",
                env=environ,
                **as_user,
            )
    except OSError as error:
        raise EmbeddedError(f"{command[0]} cannot be started: {error.strerror}.") from error


def wait_until(server: EmbeddedServer, ready: Callable[[], bool], log: Path) -> None:
    """Wait for a server that was just started; one that does not become ready is stopped, and EmbeddedError
    says why.
    """
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


def living_process(pid_file: Path, name: str) -> psutil.Process | None:
    """Return the live process named on a pid file's first line, if it is the expected program."""
    try:
        process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        return process if process.name().startswith(name) and is_living(process) else None
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder, and check that it can be written."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EmbeddedError(
            f"The folder {folder} cannot be written ({error.strerror}): set AMI_VAR_DIR to a folder of your own."
        ) from error


def make_runtime_folder(folder: Path, owner: pwd.struct_passwd | None) -> None:
    """Make the short folder under /tmp for a socket; refuse one that another user put there."""
    parent = folder.parent
    parent.mkdir(mode=0o711, exist_ok=True)
    if parent.is_symlink() or parent.stat().st_uid != os.geteuid():
        raise EmbeddedError(f"{parent} belongs to another user: set AMI_VAR_DIR to a folder with a shorter path.")
    folder.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _remove_runtime_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # the other service's folder is there still
        folder.parent.rmdir()
