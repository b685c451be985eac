"""What the rack needs of a machine, and whether it is there."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.rack.hosts import UNSHARE

CANNOT = 77  # exit code: this machine does not allow the rack
_PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "cc": "gcc", "etcd": "etcd-server"}
_MEMORY_OCTETS = 4 << 30


def lacking() -> list[str]:
    """What is missing, each as a part of a sentence; empty if the rack can be built."""
    if not sys.platform.startswith("linux"):
        return ["it needs the namespaces of Linux"]
    if os.geteuid() != 0:
        return ["it needs root, for namespaces of the network"]
    programs = {**_PROGRAMS, "haproxy": "haproxy"}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = [f"{name} is missing (package {of})" for name, of in programs.items() if not shutil.which(name, path=path)]
    if find_spec("patroni") is None:
        found.append("Patroni is missing (pip install -r requirements/rack.txt)")
    if not found and not _may_make_hosts():
        found.append("the kernel, or the container that this is, allows no namespaces, or no bridge")
    return found


def _may_make_hosts() -> bool:
    probe = "ip link add name rack type bridge && ip link add name one type veth peer name other"
    probe += " && unshare --user --map-user=1 --map-group=1 true"
    command = [*UNSHARE, "sh", "-c", probe]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def place() -> str:
    """The folder for the rack's files: in memory, where there is room for three databases."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    runs = memory.is_dir() and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    if runs and shutil.disk_usage(memory).free > _MEMORY_OCTETS:
        return str(memory)
    return "/var/tmp"  # noqa: S108 - likewise
