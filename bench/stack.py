"""The head-end's own processes over one database: web, worker and schedule, started as `manage.py up` does."""

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ami_headend.processes import beat_command, web_command, worker_command

START_TIMEOUT_S = 60.0
WORKER_PROCESSES = 2


class StackError(Exception):
    """A process did not start, or ended."""


@dataclass
class Stack:
    """Running processes by name, on a port of 127.0.0.1."""

    port: int
    env: dict[str, str]
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        with self.log(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(self._ready(name) for name in self.processes):
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"the processes did not start within {START_TIMEOUT_S:g} s; logs: {self.folder}")
            time.sleep(0.1)

    def check(self) -> None:
        """StackError if a process has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise StackError(f"{name} ended:\n{self.log(name).read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ready(self, name: str) -> bool:
        if name == "web":
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status < 500
            except OSError:
                return False
            finally:
                connection.close()
        return name != "worker" or b" ready." in self.log(name).read_bytes()


@contextmanager
def running(folder: Path, env: Mapping[str, str], *, web_only: bool = False) -> Iterator[Stack]:
    """Run the processes until the block ends; ``folder`` takes their logs."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(_free_port(), dict(env), folder)
    try:
        stack.start("web", web_command("127.0.0.1", stack.port, 1))
        if not web_only:
            stack.start("worker", worker_command(WORKER_PROCESSES))
            stack.start("schedule", [*beat_command(), "--schedule", str(folder / "schedule")])
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


def _families(pids: Mapping[str, int]) -> dict[str, list[psutil.Process]]:
    """Return processes with their descendants, by name. The table of processes is read once for all of them."""
    children = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            children[process.ppid()].append(process)
    found = {}
    for name, pid in pids.items():
        found[name] = [psutil.Process(pid)]
        for process in found[name]:  # it grows meanwhile
            found[name].extend(children[process.pid])
    return found


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU time of processes and their descendants, including ended ones, by name."""
    total = dict.fromkeys(pids, 0.0)
    for name, family in _families(pids).items():
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total[name] += times.user + times.system + times.children_user + times.children_system
    return total


def memory_octets(pids: Mapping[str, int]) -> dict[str, int]:
    """Return the memory of processes and their descendants by name; shared pages count once (PSS)."""
    total = dict.fromkeys(pids, 0)
    for name, family in _families(pids).items():
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                total[name] += getattr(memory, "pss", memory.rss)
    return total


def service_pids() -> dict[str, int]:
    """Return the pids of the embedded PostgreSQL and Redis, which are children of this process."""
    names = {"postgres": "PostgreSQL", "redis-server": "Redis"}
    found = {}
    for child in psutil.Process(os.getpid()).children():
        for program, name in names.items():
            if child.name().startswith(program):
                found[name] = child.pid
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
