"""A rolling upgrade from the former release, and both ways back: hosts with the old code again, and the old backup.

The new version is this one with a migration more, which changes the table that every post and every worker writes to.
The former release's own simulator is at work from before the migration to the end: with its readings, of old and new
hosts, each way has to end equal to its truth.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.contrib.contenttypes.models import ContentType
from django.db import connections

from tests.concentrators import fleet
from tests.rack import former, told
from tests.rack.hosts import Host
from tests.rack.matrix import Matrix, Measured, Say, Watch, longest
from tests.rack.rack import CODE, Rack, RackError
from tests.rack.services import DATABASE

NAME = "rolling upgrade"
_PARTS = ("ami_headend", "concentrators", "keyvault", "mask_authority", "meters")
_MIGRATION = """from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("concentrators", "{newest}")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE concentrators_uplink ADD COLUMN of_new_version integer NOT NULL DEFAULT 0",
            "ALTER TABLE concentrators_uplink DROP COLUMN of_new_version",
        )
    ]
"""
_SIMULATED = ("--meters", "10", "--concentrators", "2", "--days", "4", "--interval-minutes", "15", "--batch", "200")
_SCHEMES = "ccm,session,mac,hop,sealed"


def run(matrix: Matrix, say: Say) -> Measured:
    """From a rack of the former release to this one's and back. It comes last: it leaves the rack as it is then."""
    try:
        commit = former.commit()
    except former.NoHistoryError as error:
        return Measured(NAME, skipped=str(error))
    rack = matrix.rack
    old = former.check_out(commit, rack.folder / "former")
    if not former.has_same_dependencies(old):
        say("the former release locks other dependencies; it runs with those of this one")
    new = _new_version(rack.folder / "new")
    matrix.wait_whole()
    rack.found_anew(old)
    _forget()
    say(f"every host has the former release, {commit[:8]}")
    return _run(matrix, old, new, say)


def _run(matrix: Matrix, old: Path, new: Path, say: Say) -> Measured:
    rack, found = matrix.rack, Measured(NAME)
    simulation = Simulation(rack, old)
    simulation.start(["--speed", "400"])
    rack.wait("the former release verifies", partial(_has_verified_since, rack, 0), 180)
    backup = rack.manage("backup", "create", code=old).stdout.strip()
    began = time.monotonic()
    rack.manage("migrate", "--verbosity", "0", code=new, timeout_s=300)
    migrated_s = time.monotonic() - began
    before = _last_verified(rack)
    rack.wait("the old version verifies what comes after", partial(_has_verified_since, rack, before), 60)
    say(f"migrated in {migrated_s:.1f} s; the old version goes on")
    with told.operator(rack) as operator, matrix.loaded(found) as watch:
        operator.forget()
        found.since_s = time.monotonic()
        for version, code, hosts in (("new", new, rack.ours), ("old", old, list(reversed(rack.ours)))):
            for host in hosts:
                _replace(matrix, host, code, watch)
                say(f"{host.name} has the {version} version")
        found.unverified_s = longest([at for _, at in watch.verified], found.since_s)
        ended = time.monotonic()
        matrix.wait_whole()
        found.whole_s = time.monotonic() - ended
        if operator.told():
            raise RackError(f"the operator was told of {', '.join(operator.told())}, and nothing failed")
    for words in (["doctor"], ["audit", "verify", *matrix.journals()], ["journal", "verify", *matrix.journals()]):
        rack.manage(*words, code=old)
    simulation.finish()
    say("the old version goes on with the new version's database, and all that was sent is there")
    _restore(matrix, old, backup, simulation, say)
    return found


def _forget() -> None:
    """Forget what this process knows of the database before."""
    connections.close_all()
    ContentType.objects.clear_cache()
    fleet._registers.clear()


def _restore(matrix: Matrix, old: Path, backup: str, simulation: "Simulation", say: Say) -> None:
    """The other way back: the backup from before the migration, restored by the old code over the migrated database."""
    rack = matrix.rack
    keys = _keys(rack)
    began = time.monotonic()
    for host in rack.ours:
        host.stop()
    connections.close_all()
    words = ["restore", backup, "--replace", "--yes-replace", DATABASE, *matrix.journals()]
    rack.manage(*words, code=old, timeout_s=300)
    for host in rack.ours:
        host.start()
    for host in rack.webs:
        rack.wait(f"{host.name} is ready", partial(matrix.is_ready, host), 90)
    say(f"the backup from before the migration is restored by the old code in {time.monotonic() - began:.0f} s")
    lacking = keys - _keys(rack)
    if lacking:
        raise RackError(f"the restore forgot keys: {sorted(lacking)}")
    simulation.start([])
    simulation.finish(stop=False)
    rack.manage("audit", "verify", *matrix.journals(), code=old)
    say("and all that was sent is there again")


def _keys(rack: Rack) -> set[tuple[str, int, str]]:
    """Every key that may be used or was cut off: its title, epoch and state."""
    rows = rack.on(rack.primary(), "SELECT encode(system_title, 'hex'), epoch, state FROM keyvault_devicekey")
    return {(str(title), int(epoch), str(state)) for title, epoch, state in rows}


def _last_verified(rack: Rack) -> int:
    """The highest number of an uplink; as SQL, because the database may be that of another version."""
    return int(rack.on(rack.primary(), "SELECT coalesce(max(id), 0) FROM concentrators_uplink")[0][0])


def _has_verified_since(rack: Rack, number: int) -> bool:
    statement = "SELECT EXISTS (SELECT 1 FROM concentrators_uplink WHERE id > %s AND verified_at IS NOT NULL)"
    return bool(rack.on(rack.primary(), statement, number)[0][0])


@dataclass
class Simulation:
    """`manage.py simulate` of a version, in a folder that a later run goes on from."""

    rack: Rack
    code: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        return self.rack.folder / "admin" / "simulate.log"

    def start(self, more: Sequence[str]) -> None:
        """Begin it, or go on with it."""
        state = str(self.rack.folder / "simulation")
        words = ["simulate", "--url", self.rack.entrance, "--state", state, "--schemes", _SCHEMES, *_SIMULATED, *more]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", *words], cwd=self.code, env=self.rack.environ(None), stdout=log,
                stderr=log,
            )  # fmt: skip

    def finish(self, *, stop: bool = True) -> None:
        """Let the meters stop, or measure to the end; then it compares. RackError if anything is not as it was sent."""
        assert self.process is not None
        if stop:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(300 * self.rack.patience)
        if code:
            raise RackError(f"the simulation ended with {code}: {self.log.read_text()[-3000:]}")


def _new_version(folder: Path) -> Path:
    for part in _PARTS:
        shutil.copytree(CODE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("manage.py", "pyproject.toml"):
        shutil.copy2(CODE / name, folder / name)
    migrations = folder / "concentrators" / "migrations"
    newest = max(path.stem for path in migrations.glob("0*.py"))
    (migrations / f"{int(newest[:4]) + 1:04}_of_new_version.py").write_text(_MIGRATION.format(newest=newest))
    return folder


def _replace(matrix: Matrix, host: Host, code: Path, watch: Watch) -> None:
    """Put another version on a host, in good order."""
    rack = matrix.rack
    host.stop()
    rack.prepare(host, code)
    host.start()
    if host in rack.webs:
        rack.wait(f"{host.name} is ready", partial(matrix.is_ready, host), 90)
    since = time.monotonic()
    rack.wait("an uplink is verified", partial(watch.has_verified_since, since), 60)
