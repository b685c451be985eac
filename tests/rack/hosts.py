"""Hosts as Linux namespaces on a bridge: start, kill, slow down, cut off from each other.

A host has a network, a hostname and processes of its own; the files are the machine's. Everything lives in namespaces
below the one of the runner, so that the kernel takes all of it away when the runner ends, however it does.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BRIDGE = "rack"
NETWORK = "10.77.0"
OURS = f"{NETWORK}.1"  # the runner's own address
_NOWHERE = "02:00:00:00:00:99"  # a hardware address that nobody has: what is sent there is lost without a word
OFF = ".off"  # the file of a service that is not to run
UNSHARE = ["unshare", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
_MACHINE = Path(__file__).with_name("machine.py")
_STOPPED_S, _RUNNING_S, _PULSES = 0.18, 0.02, 10


class HostError(Exception):
    """A host or its network cannot be changed; the message is what `ip` said."""


def ip(*words: str, within: int | None = None) -> None:
    """Run `ip`, in the network namespace of a process if one is named."""
    enter = [] if within is None else ["nsenter", "--target", str(within), "--net"]
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def make_bridge() -> None:
    """Make the bridge that joins the hosts, in the namespace of this process."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("address", "add", f"{OURS}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


@dataclass
class Service:
    """A process of a host, which is started again whenever it ends."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"


@dataclass
class Host:
    """A host: its name, the last octet of its address, its folder and its services."""

    name: str
    number: int
    folder: Path
    services: list[Service] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def pid(self) -> int:
        """The first process of the host, as this process sees it."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).children()[0].pid)

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Switch the host on; its services start once its network is there."""
        spec = self.folder / "services.json"
        spec.write_text(json.dumps({"name": self.name, "address": self.address, "services": self._specs()}))
        with self.log("machine").open("ab") as log:
            command = [*UNSHARE, sys.executable, "-I", str(_MACHINE), str(spec)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not psutil.Process(self.process.pid).children():
            time.sleep(0.01)
        ip("link", "add", f"to-{self.name}", "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        ip("link", "set", f"to-{self.name}", "master", BRIDGE, "up")
        ip("link", "set", "lo", "up", within=self.pid)
        ip("address", "add", f"{self.address}/24", "dev", "eth0", within=self.pid)
        # The same after each start, as of a real host: others remember it, and would speak to the one before.
        ip("link", "set", "eth0", "address", f"02:00:0a:4d:00:{self.number:02x}", "up", within=self.pid)

    def _specs(self) -> list[dict[str, Any]]:
        names = ("name", "cwd")
        return [
            {name: getattr(one, name) for name in names}
            | {"command": list(one.command), "env": dict(one.env), "log": str(self.log(one.name))}
            for one in self.services
        ]

    def kill(self) -> None:
        """Kill -9 of every process of the host at once; its network goes with it."""
        assert self.process is not None
        with suppress(IndexError, psutil.NoSuchProcess):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        self._unplug()

    def stop(self) -> None:
        """Shut the host down in good order."""
        if self.process is None:
            return
        with suppress(IndexError, psutil.NoSuchProcess):
            os.kill(self.pid, signal.SIGTERM)
        self.process.wait()
        self._unplug()

    def _unplug(self) -> None:
        self.process = None
        for _ in range(200):  # the kernel takes the cable away a moment after the namespace
            if f"to-{self.name}" not in {name for _, name in socket.if_nameindex()}:
                return
            time.sleep(0.02)
        ip("link", "delete", f"to-{self.name}")

    def processes(self, *, of: str = "") -> list[psutil.Process]:
        """The processes of the host but the first, or those whose command line holds a text."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if of in " ".join(process.cmdline()):
                    found.append(process)
        return found

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def set_clock_off(self, seconds: int) -> None:
        """Set the clock of the host's processes off, in place: they have the file mapped."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("i", seconds))


def tell(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Signal processes, some of which may have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def sides(one: Sequence[Host], other: Sequence[Host]) -> list[tuple[Host, Host]]:
    """Each host with each host of the other side, in both directions."""
    pairs = [(left, right) for left in one for right in other if left.name != right.name]
    return pairs + [(right, left) for left, right in pairs]


@contextmanager
def parted(one: Sequence[Host], other: Sequence[Host], *, both: bool = True) -> Iterator[None]:
    """A network that loses, without a word, what the hosts of two groups send each other, while the block runs.

    Not ``both``: what the other group sends still arrives.
    """
    pairs = sides(one, other)
    pairs = pairs if both else pairs[: len(pairs) // 2]
    for host, peer in pairs:
        way = ("neigh", "replace", peer.address, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")
        ip(*way, within=host.pid)
    try:
        yield
    finally:
        for host, peer in pairs:
            if host.is_up():
                with suppress(HostError):  # a host that was started anew has forgotten it
                    ip("neigh", "del", peer.address, "dev", "eth0", within=host.pid)


@contextmanager
def slowed(host: Host) -> Iterator[None]:
    """A host that gets a tenth of its time, while the block runs."""
    ended = threading.Event()

    def pulse() -> None:
        while not ended.is_set():
            found = host.processes()  # to look for them takes as long as they are to run
            for _ in range(_PULSES):
                tell(found, signal.SIGSTOP)
                time.sleep(_STOPPED_S)
                tell(found, signal.SIGCONT)
                time.sleep(_RUNNING_S)

    thread = threading.Thread(target=pulse, name=f"slow {host.name}")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def frozen(host: Host, *, of: str) -> Iterator[int]:
    """Processes of a host that are stopped while the block runs; how many there are."""
    stopped: set[psutil.Process] = set()
    while found := set(host.processes(of=of)) - stopped:  # others may have begun meanwhile
        tell(list(found), signal.SIGSTOP)
        stopped |= found
    if not stopped:
        raise HostError(f"{host.name} has no process of {of}")
    try:
        yield len(stopped)
    finally:
        tell(list(stopped), signal.SIGCONT)


@contextmanager
def halted(host: Host, service: str) -> Iterator[None]:
    """A service of a host that is killed and not started again while the block runs."""
    off = host.log(service).with_suffix(OFF)
    off.touch()
    try:
        yield
    finally:
        off.unlink()


def give_disk(folder: Path, octets: int) -> None:
    """Give a folder a disk of its own; the kernel takes it away with the runner's namespace."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={octets},mode=0700", "rack", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def take_disk(folder: Path) -> None:
    """Take the disk of a folder away, with all that is on it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def empty(folder: Path) -> None:
    """Delete what is in a folder; the folder stays, which may have a disk of its own."""
    for path in folder.iterdir():
        path.unlink()


@contextmanager
def filled(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk without room while the block runs; what it gets fills what became free since."""
    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    try:
        fill()
        yield fill
    finally:
        ballast.unlink()
