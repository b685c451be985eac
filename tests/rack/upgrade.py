"""A rolling upgrade: the database is migrated while the old version works, then host after host gets the new one.

The new version is this one with a migration more, which changes the table that every post and every worker writes to.
"""

import shutil
import time
from functools import partial
from pathlib import Path

from tests.rack.hosts import Host
from tests.rack.matrix import Matrix, Measured, Say, longest
from tests.rack.rack import CODE

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


def run(matrix: Matrix, say: Say) -> Measured:
    """The whole of it, from a whole rack of the old version to one of the new version."""
    rack = matrix.rack
    matrix.wait_whole()
    new = _new_version(rack.folder / "new")
    found = Measured(NAME)
    with matrix.loaded(found) as watch:
        began = time.monotonic()
        rack.manage("migrate", "--verbosity", "0", code=new, timeout_s=300)
        since = time.monotonic()
        rack.wait("the old version verifies", lambda: watch.has_verified_since(since), 60)
        say("migrated; the old version goes on")
        for host in (*rack.webs, *rack.workers):
            _upgrade(matrix, host, new)
            since = time.monotonic()
            rack.wait("an uplink is verified", partial(watch.has_verified_since, since), 60)
            say(f"{host.name} has the new version")
        ended = time.monotonic()
        matrix.wait_whole()
        found.whole_s = time.monotonic() - ended
        found.unverified_s = longest([at for _, at in watch.verified], began)
        found.since_s = began
    return found


def _new_version(folder: Path) -> Path:
    for part in _PARTS:
        shutil.copytree(CODE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("manage.py", "pyproject.toml"):
        shutil.copy2(CODE / name, folder / name)
    migrations = folder / "concentrators" / "migrations"
    newest = max(path.stem for path in migrations.glob("0*.py"))
    (migrations / f"{int(newest[:4]) + 1:04}_of_new_version.py").write_text(_MIGRATION.format(newest=newest))
    return folder


def _upgrade(matrix: Matrix, host: Host, new: Path) -> None:
    host.stop()
    matrix.rack.prepare(host, new)
    host.start()
    if host in matrix.rack.webs:
        matrix.rack.wait(f"{host.name} is ready", partial(matrix.is_ready, host), 90)
