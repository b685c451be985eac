"""The first process of a host: starts the services of its specification, and each again that ends.

It is process 1 of a PID namespace: whoever kills it ends every process of the host in that instant, as a loss of power
does. It imports nothing of the project, so that a host starts in a moment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

AGAIN_AFTER_S = 1.0
STOP_S = 30.0
OFF = ".off"


class Service:
    """A service with its process, or the time at which it is to start again."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.due_s = time.monotonic()

    def look(self) -> None:
        """Note that the process ended, or start it if it is time; kill it if its file says that it is not to run."""
        if Path(self.spec["log"]).with_suffix(OFF).exists():
            if self.process is not None:
                self.process.kill()
                self.process.wait()
                self.process = None
            return
        if self.process is not None:
            if self.process.poll() is None:
                return
            self._say(f"ended with {self.process.returncode}, starts again")
            self.process, self.due_s = None, time.monotonic() + AGAIN_AFTER_S
        elif time.monotonic() >= self.due_s:
            self.process = self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        with Path(self.spec["log"]).open("ab") as log:
            return subprocess.Popen(
                self.spec["command"],
                env=self.spec["env"],
                cwd=self.spec.get("cwd", "/"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._say(f"has not ended within {STOP_S:.0f} s")

    def _say(self, text: str) -> None:
        with Path(self.spec["log"]).open("a") as log:
            log.write(f"[machine] {text}\n")


def _wait_for_network(address: str) -> None:
    while True:
        try:
            with socket.socket() as probe:
                probe.bind((address, 0))
                return
        except OSError:
            time.sleep(0.02)


def _reap(services: list[Service]) -> None:
    """Take leave of processes whose parents ended; those of the services are left to ``Popen``."""
    ours = {service.process.pid for service in services if service.process is not None}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in (1, *ours):
            try:
                os.waitpid(int(entry.name), os.WNOHANG)
            except ChildProcessError:
                continue  # somebody else's child


def main(path: Path) -> None:
    spec = json.loads(path.read_text())
    socket.sethostname(spec["name"])
    ended = False

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    _wait_for_network(spec["address"])
    services = [Service(one) for one in spec["services"]]
    while not ended:
        for service in services:
            service.look()
        _reap(services)
        time.sleep(0.1)
    for service in reversed(services):
        service.stop()  # the later ones need the earlier ones


if __name__ == "__main__":
    main(Path(sys.argv[1]))
