"""A host is lost with its disk, and a new one with an empty disk takes its place: its key journal stands in mirrors.

First a web host, which wrote the acts of people, then a worker host, which wrote first frames under new keys and held
mirrors of both web hosts.
"""

import shutil
import time
from functools import partial
from pathlib import Path

from ami_headend.core.text import counted
from keyvault import master_key
from keyvault.journal import reading
from keyvault.models import AuditRecord
from tests.rack.hosts import Host, take_disk
from tests.rack.matrix import Matrix, Measured, Say, Watch, longest
from tests.rack.rack import RackError

NAME = "host lost with its disk"
_COMPONENTS = ("hosts",)


def run(matrix: Matrix, say: Say) -> Measured:
    """The whole of it, from a whole rack to a whole rack."""
    rack = matrix.rack
    matrix.wait_whole()
    backup = rack.manage("backup", "create").stdout.strip()
    found, lost = Measured(NAME), set[int]()
    matrix.operator.begin()
    with matrix.loaded(found) as watch:
        began = found.since_s = time.monotonic()
        for host in (rack.webs[0], rack.workers[0]):
            lost |= _lose(matrix, host, watch, say)
        for host in rack.ours:  # the lost disks held mirrors, too
            rack.manage_on(host, "journal", "mirror")
        ended = time.monotonic()
        matrix.wait_whole()
        found.whole_s = time.monotonic() - ended
        found.unverified_s = longest([at for _, at in watch.verified], began)
    _assert_nothing_forgotten(matrix, backup, lost)
    say(f"{len(lost)} records of the lost journals stand in mirrors, and a restore finds them")
    return found


def _lose(matrix: Matrix, host: Host, watch: Watch, say: Say) -> set[int]:
    """Lose a host with its disk, and put a new one in its place; the numbers of the records that it alone had."""
    rack = matrix.rack
    own = host.folder / "var" / "journal"
    rack.wait(f"{host.name} writes to its journal", lambda: own.is_dir() and bool(_numbers(own)), 60)
    host.kill()
    lost = _numbers(own)
    take_disk(own)
    shutil.rmtree(host.folder / "var")
    say(f"{host.name} is lost with {counted(len(lost), 'record')}")
    since = time.monotonic()
    rack.wait("an uplink is verified without it", partial(watch.has_verified_since, since), 120)
    matrix.assert_told(_COMPONENTS)
    rack.prepare(host)
    assert not any(own.iterdir())
    host.start()
    if host in rack.webs:
        rack.wait(f"{host.name} is ready", partial(matrix.is_ready, host), 90)
    rack.wait(f"{host.name} begins a journal of its own", lambda: own.is_dir() and bool(_numbers(own)), 120)
    matrix.assert_over(*_COMPONENTS)
    matrix.operator.forget()
    return lost


def _numbers(*folders: Path) -> set[int]:
    return {record.number for record in reading.read(folders, master_key.current())}


def _assert_nothing_forgotten(matrix: Matrix, backup: str, lost: set[int]) -> None:
    """The mirrors alone have what was lost, and a restore from before all of it would find every act in them."""
    rack = matrix.rack
    for host in rack.ours:
        rack.manage_on(host, "journal", "mirror")  # also what was written to one mirror alone when its host was lost
        rack.manage_on(host, "journal", "drill")
    missing = lost - _numbers(*map(rack.mirror_at, rack.ours))
    if missing:
        raise RackError(f"no mirror has records {sorted(missing)} of a lost host")
    acts = AuditRecord.objects.count()
    drilled = rack.manage("restore_drill", backup, *matrix.journals(), timeout_s=300).stdout
    if f" {counted(acts, 'audit record')}" not in drilled:
        raise RackError(f"a restore would not find all {acts} acts:\n{drilled}")
    if lost & _numbers(*rack.own_journals):
        raise RackError("the hosts' own journals have records of a lost host: its disk was not lost")
