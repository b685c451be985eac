"""A database and a backup of the release before its migrations were squashed go on; one of earlier releases is refused.

What was made by that release, and how, stands in before/README.md.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.alerts.models import Alert
from ami_headend.backup import databases as ours
from ami_headend.backup import manifest, restoring
from ami_headend.core import upgrades
from ami_headend.core.sql import fetch_rows
from ami_headend.database_roles import grant_rights
from ami_headend.health import doctor
from ami_headend.local.embedded import postgres_program
from concentrators.ingest.verification import verify
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator, ConcentratorToken, IntegrityFailure, RotationWave, Uplink
from keyvault import master_key
from keyvault.backups import BackupError
from keyvault.models import AuditRecord, DeviceKey, InvocationCounter, KeyState
from meters.models import MeterEvent, Reading
from meters.readings import partitions
from tests.builders import seal_frame, senml_payload
from tests.concentrators.fleet import ENERGY, outcome, post
from tests.flows import databases

BEFORE = Path(__file__).parent / "before"
TITLES = [bytes.fromhex(f"0024befffe804f{last}") for last in ("f1", "f2", "f3")]
KEYS = [bytes(range(n, n + 32)) for n in range(3)]


@pytest.fixture
def db() -> None:
    """Not pytest-django's: migrations commit."""


@pytest.fixture
def backup(tmp_path: Path, settings: Settings) -> Path:
    """The backup in a folder of its own, with the master key and the key journal of that release."""
    settings.KEY_JOURNAL_DIR = Path(shutil.copytree(BEFORE / "journal", tmp_path / "journal"))
    settings.KEY_JOURNAL_DIR.chmod(0o700)
    settings.MASTER_KEY_FILE = Path(shutil.copy(BEFORE / "master.keys", tmp_path))
    settings.MASTER_KEY_FILE.chmod(0o600)
    return BEFORE


@pytest.fixture
def empty(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The name of a new database."""
    with django_db_blocker.unblock():
        name = f"{connection.settings_dict['NAME']}_before"
        databases.drop(name)
        ours.create(name)
        yield name
        databases.drop(name)


@pytest.fixture
def before(backup: Path, empty: str) -> Iterator[None]:
    """The database of that release as the default of this process."""
    with ours.connected_to(empty):
        restoring.load(backup / manifest.DUMP, lambda octets: None, replace=False)
        with connection.cursor() as cursor:  # as no backup holds it
            cursor.execute("INSERT INTO keyvault_journal_replayed DEFAULT VALUES")
        yield


def fresh_frame(meter: int, counter: int, wh: int) -> bytes:
    """A frame that one of the three meters seals now: what its register of energy says."""
    return seal_frame(
        TITLES[meter], 1, KEYS[meter], counter, senml_payload({ENERGY: wh}, int(timezone.now().timestamp()) - counter)
    )


def judged(*frames: bytes) -> dict[str, int]:
    """What a worker of this release makes of frames that DCU-17 brings."""
    uplink = post(Concentrator.objects.get(name="DCU-17"), frames, timezone.now())
    verify(uplink.pk, Worker())
    uplink.refresh_from_db()
    return outcome(uplink)


def schema() -> list[str]:
    """The schema of this process's database; but for partitions, which are of the month."""
    url = databases.at_database(os.environ["DATABASE_URL"], str(connection.settings_dict["NAME"]))
    command = [postgres_program("pg_dump"), "--schema-only", "--no-owner", "--no-privileges"]
    command += ["--exclude-table=meters_*_20*", "--dbname", url]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


def schema_once_loaded() -> list[str]:
    """The schema of this process's database as it is written after a dump and a load.

    Of a condition like ``act IN (...)`` PostgreSQL then writes the casts in another way.
    """
    script = "\n".join(schema())
    with ours.scratch() as name:
        url = databases.at_database(os.environ["DATABASE_URL"], name)
        load = [postgres_program("psql"), "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url]
        subprocess.run(load, check=True, capture_output=True, input=script, text=True)
        return schema()


_SEEDS = {
    "registers": "SELECT obis_code, kind, unit, scaler, name, minimum, maximum FROM meters_register",
    "rules": """SELECT name, condition, selector, threshold, period_minutes, severity, quiet_minutes, is_enabled
                FROM alerts_rule""",
    "rights": """SELECT g.name, t.app_label, p.codename FROM auth_group g
                 LEFT JOIN auth_group_permissions gp ON gp.group_id = g.id
                 LEFT JOIN auth_permission p ON p.id = gp.permission_id
                 LEFT JOIN django_content_type t ON t.id = p.content_type_id""",
    "migrations": "SELECT app, name FROM django_migrations",
    "generations": "SELECT count(*) FROM concentrators_registrygeneration",
    "counting": "SELECT count(*) FROM metrics_counted",
    "first mark": "SELECT count(*) > 0 FROM alerts_storedmark",
    "journal": "SELECT only_one FROM keyvault_journal_replayed",
}


def seeds() -> dict[str, list[Any]]:
    """What a head-end begins with, whatever ids it has."""
    return {name: sorted(fetch_rows(statement), key=repr) for name, statement in _SEEDS.items()}


def migrate() -> None:
    call_command("migrate", verbosity=0)
    grant_rights(databases.WORKING_ROLE)


@pytest.fixture
def new(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> tuple[list[str], dict[str, list[Any]]]:
    """Schema and seeds of a database that this release made, and that was dumped and loaded once."""
    with django_db_blocker.unblock():
        name = f"{connection.settings_dict['NAME']}_new"
        databases.drop(name)
        ours.create(name)
        own_url = os.environ["DATABASE_URL"]
        with databases.moved_to(databases.at_database(own_url, name), own_url):
            found = schema(), seeds()
        databases.drop(name)
        return found


def test_an_upgraded_database_has_what_a_new_one_has_keeps_its_rows_and_goes_on(
    new: tuple[list[str], dict[str, list[Any]]], before: None
) -> None:
    rows = [Uplink.objects.count(), IntegrityFailure.objects.count(), AuditRecord.objects.count()]
    migrate()
    assert_what_was_read_stands()
    first = partitions.month_start(partitions.retention_start(timezone.now()))  # the backup was made in another month
    partitions._apply("meters_drop_month", lambda there: {month for month in there if month < first})
    assert schema_once_loaded() == new[0]
    assert seeds() == new[1]
    assert rows == [Uplink.objects.count(), IntegrityFailure.objects.count(), AuditRecord.objects.count()]
    assert rows[:2] == [3, 6]
    assert len(new[0]) > 4_000
    assert len(new[1]["registers"]) > 20
    partitions.maintain()
    first_one, second, cut_off = fresh_frame(0, 20, 7), fresh_frame(1, 4, 8), fresh_frame(2, 9, 9)
    assert judged(first_one, second, cut_off) == {"accepted": 2, "key_retired": 1}
    assert judged(first_one, fresh_frame(1, 3, 9)) == {"duplicate": 1, "counter_reused": 1}
    assert InvocationCounter.objects.get(key__system_title=TITLES[0], key__epoch=1).highest == 20


def assert_what_was_read_stands() -> None:
    assert Reading.objects.count() == 28
    assert MeterEvent.objects.get().value == 41
    assert set(IntegrityFailure.objects.values_list("kind", flat=True)) == {
        "malformed",
        "tag_invalid",
        "unknown_device",
        "unknown_register",
        "counter_reused",
        "registry_mismatch",
    }
    assert Alert.objects.filter(resolved_at=None).count() == 3
    assert RotationWave.objects.get().meters.get().meter.serial_number == "SN-2"
    assert set(DeviceKey.objects.values_list("scheme", flat=True)) == {"ccm"}


def test_one_that_is_half_way_is_refused_in_a_sentence_and_stays_as_it_is(before: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """DELETE FROM django_migrations
               WHERE (app, name) IN (('concentrators', '0024_names_alike'), ('meters', '0014_names_alike'))"""
        )
    applied = _applied()
    with pytest.raises(CommandError) as refused:
        call_command("migrate", verbosity=0)
    lacks = "concentrators.0024_names_alike, meters.0014_names_alike"
    assert str(refused.value) == (
        f"The database {connection.settings_dict['NAME']} stays as it is: it is of a release before 7224772, the"
        f" oldest that this one goes on from: it lacks {lacks}. Run manage.py"
        " migrate of 7224772 first, then this one."
    )
    assert _applied() == applied
    finding = doctor._migrations()
    assert not finding.well
    assert finding.to_do == "Run manage.py migrate of 7224772, then of this one."


class TestBackup:
    def test_it_is_restored_and_its_journal_replayed(self, backup: Path, empty: str) -> None:
        call_command("restore", str(backup), "--database", empty, stdout=StringIO())
        with ours.connected_to(empty):
            second = DeviceKey.objects.get(system_title=TITLES[1], epoch=1)
            assert second.state == KeyState.COMPROMISED  # after the backup was made
            assert ConcentratorToken.objects.get(label="bench").revoked_at is not None
            assert judged(fresh_frame(0, 20, 7), fresh_frame(1, 4, 8)) == {"accepted": 1, "key_retired": 1}
            call_command("audit", "verify", stdout=StringIO())
            assert doctor._migrations().well

    def test_one_of_a_release_before_is_refused_before_anything_is_loaded(self, backup: Path) -> None:
        found = manifest.read(backup, master_key.provider().fresh())
        restoring.check_release(found)
        names = [name for name in found.migrations["meters"] if name != "0009_bounds"]
        with pytest.raises(BackupError, match=r"it lacks meters\.0009_bounds\. Restore it with 7224772, then upgrade"):
            restoring.check_release(replace(found, migrations=found.migrations | {"meters": names}))
        unheard = [*found.migrations["meters"], "0999_of_another_release"]
        with pytest.raises(BackupError, match=r"does not know \(meters\.0999_of_another_release\)"):
            restoring.check_release(replace(found, migrations=found.migrations | {"meters": unheard}))


def _applied() -> set[tuple[str, str]]:
    return {(app, name) for app, name in fetch_rows("SELECT app, name FROM django_migrations")}


def test_what_is_missing_is_said_of_groups_that_are_applied_in_part_alone() -> None:
    first, second = [("a", "1"), ("a", "2"), ("a", "3")], [("b", "1"), ("b", "2")]
    assert upgrades.half_way(set(), [first, second]) == set()
    assert upgrades.half_way({*first, *second, ("c", "1")}, [first, second]) == set()
    assert upgrades.half_way({*first}, [first, second]) == set()
    assert upgrades.half_way({("a", "1"), ("b", "1"), ("b", "2")}, [first, second]) == {("a", "2"), ("a", "3")}


def test_every_squashed_migration_is_known_with_what_it_replaces() -> None:
    groups = upgrades._gone()
    assert {app for group in groups for app, _ in group} == {
        "keyvault", "meters", "concentrators", "ami_headend", "alerts", "metrics", "signin"
    }  # fmt: skip
    assert all(key in upgrades.known() for group in groups for key in group)
