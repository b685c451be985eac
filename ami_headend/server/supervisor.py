"""The processes of the web server share one listening socket; those that die or freeze are replaced.

The application is loaded once, before the processes are forked, so a new one answers within milliseconds. Until then
connections wait in the queue of the socket, which no single process owns.
"""

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from ami_headend.core import sd_notify
from ami_headend.core.sd_notify import Silence
from ami_headend.server.lifesigns import Lifesigns

logger = logging.getLogger(__name__)

_SHORT_LIFE_S = 1.0
_LOOK_S = 1.0
_REST_S = 1.0  # before restarting a process that lived only briefly
_KILL_AFTER_S = 5.0  # beyond the time that a process may take to stop by itself

Serve = Callable[[socket.socket, int, int], None]  # the socket, the pipe that ends it, the pipe for signs of life


class Supervisor:
    """Runs ``serve`` in several processes, and ``beside`` in one, until a signal comes, and replaces those that die.

    Processes that live but send no sign of life for ``silence_s`` (stopped, hanging, in a deadlock) are killed.
    """

    def __init__(
        self,
        listening: socket.socket,
        processes: int,
        serve: Serve,
        stop_s: float,
        silence_s: float,
        beside: Serve | None = None,
    ) -> None:
        self._listening, self._stop_s = listening, stop_s
        self._jobs = [*[serve] * processes, *([beside] if beside else [])]
        self._started: dict[int, tuple[Serve, float]] = {}
        self._stopping = False
        self._lifesigns, self._silence, self._silence_s = Lifesigns(), Silence(silence_s), silence_s
        self._alive_read, self._alive_write = os.pipe()  # closed when this process dies, which stops the others
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; then let every process finish its work in progress."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the loop
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.freeze()  # so that pages of memory stay shared
        for job in self._jobs:
            self._start(job)
        while not self._stopping:
            select.select([self._wake_read], [], [], _LOOK_S)
            self._drain()
            sd_notify.show()  # for this process; its children report to it
            self._kill_frozen()
            self._replace_dead()
        self._end()

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _start(self, job: Serve) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_a_process(job)
        self._started[pid] = job, time.monotonic()
        self._silence.begin(pid)

    def _be_a_process(self, job: Serve) -> None:
        """Do a job in the child, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the supervisor decides when to stop
            for end in (self._alive_write, self._wake_read, self._wake_write):
                os.close(end)
            job(self._listening, self._alive_read, self._lifesigns.of_child())
            code = 0
        except BaseException:
            logger.exception("a process of the web server ended")
        finally:
            logging.shutdown()
            os._exit(code)

    def _kill_frozen(self) -> None:
        """Kill processes that are silent too long; their work in progress is lost, as if they had died."""
        for pid in self._silence.frozen(time.monotonic(), self._lifesigns.read()):
            logger.error(
                "process %d of the web server gave no sign of life for %g s and was killed", pid, self._silence_s
            )
            self._silence.forget(pid)
            os.kill(pid, signal.SIGKILL)

    def _replace_dead(self) -> None:
        for pid, status in self._ended():
            job, started_s = self._started.pop(pid)
            lived_s = time.monotonic() - started_s
            self._silence.forget(pid)
            if self._stopping:
                return
            logger.error("process %d of the web server ended (%s): another is started", pid, _said(status))
            if lived_s < _SHORT_LIFE_S:
                time.sleep(_REST_S)
            self._start(job)

    def _ended(self) -> list[tuple[int, int]]:
        found = []
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] in self._started:
                    found.append(ended)
        return found

    def _end(self) -> None:
        self._listening.close()
        self._tell(signal.SIGTERM)
        until_s = time.monotonic() + self._stop_s + _KILL_AFTER_S
        while self._started and time.monotonic() < until_s:
            select.select([self._wake_read], [], [], 0.2)
            self._drain()
            for pid, _ in self._ended():
                del self._started[pid]
        self._tell(signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _said(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
