"""Processes side by side: those that end are restarted, a limited number of times, and all end together.

A process that stops sending signs of life (``core.sd_notify``), because it is stopped or hangs, is killed and so
restarted. Silence only counts while this process is awake.

A supervisor that is killed leaves nothing behind: the kernel ends its processes (on Linux; see
``embedded.processes.tethered``), and each of those ends what it started. Everything happens in one thread, which starts
every process, as Python's ``preexec_fn`` requires.
"""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ami_headend.core import sd_notify
from ami_headend.core.sd_notify import Silence
from ami_headend.local.embedded import EmbeddedError
from ami_headend.local.embedded.processes import tethered

RESTARTS_MAX = 5
RESTARTS_PERIOD_S = 60.0
STOP_S = 40.0  # for all processes together to finish their work
SILENCE_S = 60.0  # the longest silence
_LOOK_S = 0.2
_FIRST_WAIT_S = 0.2  # before a restart, doubled each time


class RestartsError(Exception):
    """A process ended too often; the message is one sentence for the operator."""


class Service(Protocol):
    """A server beside the commands, such as Redis, that can be checked and restarted."""

    @property
    def name(self) -> str: ...

    def has_ended(self) -> bool: ...

    def restart(self) -> None:
        """Restart it; EmbeddedError if it does not start."""


class Display(Protocol):
    """The output for lines of a process, or of the supervisor (``system``)."""

    def line(self, name: str, text: str) -> None: ...


class _Restarts:
    """The restarts of one process, and whether another one is allowed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.due_s: float | None = None
        self._at: deque[float] = deque(maxlen=RESTARTS_MAX + 1)

    def note(self, said: str) -> str:
        """Record that it ended and return a message. RestartsError if that was too often."""
        now = time.monotonic()
        self._at.append(now)
        lately = sum(now - at < RESTARTS_PERIOD_S for at in self._at)
        if lately > RESTARTS_MAX:
            raise RestartsError(
                f"{self.name} ended {lately} times within a minute, the last time {said}: everything was stopped."
            )
        self.due_s = now + _FIRST_WAIT_S * 2 ** (lately - 1)
        return f"{self.name} ended ({said}): it is restarted, {lately} of {RESTARTS_MAX} times within a minute"

    def is_due(self) -> bool:
        return self.due_s is not None and time.monotonic() >= self.due_s


class _Command:
    """A command, its process, its output, and its signs of life, which come to a socket in ``folder``."""

    def __init__(self, name: str, words: Sequence[str], env: Mapping[str, str], cwd: Path, folder: Path) -> None:
        self.name, self._words, self._cwd = name, list(words), cwd
        self.life = sd_notify.Listener(folder / name)
        self._env = {**env, sd_notify.VARIABLE: self.life.address}
        self.restarts = _Restarts(f"The process {name}")
        self.process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def start(self) -> int:
        """Start the process and return the end of the pipe that it writes to."""
        self.restarts.due_s = None
        self.life.heard()  # signs of the previous process
        ours, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                self._words,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,  # so that Ctrl-C reaches it only through us
                preexec_fn=tethered(signal.SIGTERM),  # noqa: PLW1509 - this process has one thread
            )
        finally:
            os.close(theirs)
        return ours

    def lines(self, octets: bytes) -> list[str]:
        """Return the complete lines that it has written, including these octets."""
        *whole, self._rest = (self._rest + octets).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def signal(self, number: signal.Signals) -> None:
        """Signal only the leading process, which ends its own; SIGKILL goes to all of them."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                self.process.send_signal(number)


class LocalSupervisor:
    """Runs commands and supervises services until an interrupt, or until something ends too often."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        services: Sequence[Service],
        env: Mapping[str, str],
        cwd: Path,
        display: Display,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ami-headend-")
        folder = Path(self._folder.name)
        self._commands = [_Command(name, words, env, cwd, folder) for name, words in commands.items()]
        self._silence, self._silence_s = Silence(silence_s), silence_s
        self._services = {service.name: (service, _Restarts(service.name)) for service in services}
        self._display = display
        self._watched: set[int] = set()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Run until an exception such as KeyboardInterrupt; all processes have ended then.

        RestartsError if one ended too often.
        """
        try:
            for command in self._commands:
                self._start(command)
            while True:
                self._read(_LOOK_S)
                for service, restarts in self._services.values():
                    self._look_after(service, restarts)
                self._kill_frozen()
                for command in self._commands:
                    self._look_at(command)
        finally:
            self._stop()

    def _start(self, command: _Command) -> None:
        self._selector.register(command.start(), selectors.EVENT_READ, command)

    def _read(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            command: _Command = key.data
            octets = os.read(key.fd, 1 << 16)
            if not octets:  # all writers have ended
                self._selector.unregister(key.fd)
                os.close(key.fd)
            for line in command.lines(octets):
                self._display.line(command.name, line)

    def _kill_frozen(self) -> None:
        """Kill processes that are silent too long; their work in progress is lost, as if they had died."""
        running = {c.process.pid: c for c in self._commands if c.process is not None and c.process.poll() is None}
        heard = {pid for pid, command in running.items() if command.life.heard()}
        for pid in heard - self._watched:  # not before its first sign: not every command sends any
            self._silence.begin(pid)
        for pid in self._watched - running.keys():
            self._silence.forget(pid)
        self._watched = (self._watched | heard) & running.keys()
        for pid in self._silence.frozen(time.monotonic(), heard):
            said = f"The process {running[pid].name} gave no sign of life for {self._silence_s:g} s: killed"
            self._display.line("system", said)
            running[pid].signal(signal.SIGKILL)
            self._silence.forget(pid)
            self._watched.discard(pid)

    def _look_at(self, command: _Command) -> None:
        code = command.process.poll() if command.process is not None else None
        if code is not None:
            self._read(0)
            command.signal(signal.SIGKILL)  # its children, if only it was killed
            command.process = None
            self._display.line("system", command.restarts.note(f"exit code {code}"))
        if command.restarts.is_due():
            self._start(command)

    def _look_after(self, service: Service, restarts: _Restarts) -> None:
        if restarts.due_s is None and service.has_ended():
            self._display.line("system", restarts.note("it was killed, or failed"))
        if restarts.is_due():
            restarts.due_s = None
            try:
                service.restart()
            except EmbeddedError as error:
                self._display.line("system", restarts.note(str(error)))

    def _stop(self) -> None:
        try:
            for command in self._commands:
                command.signal(signal.SIGTERM)
            end = time.monotonic() + STOP_S
            while any(c.process is not None and c.process.poll() is None for c in self._commands):
                if time.monotonic() > end:
                    break
                self._read(_LOOK_S)
        finally:  # also if somebody interrupts again instead of waiting
            for command in self._commands:
                command.signal(signal.SIGKILL)
                if command.process is not None:
                    command.process.wait()
            for key in list(self._selector.get_map().values()):
                os.close(key.fd)
            self._selector.close()
            for command in self._commands:
                command.life.close()
            self._folder.cleanup()
