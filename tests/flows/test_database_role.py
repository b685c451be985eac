"""Web and workers act in a role that owns nothing: all they do works, and PostgreSQL refuses what they must not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.test import override_settings
from django.utils import timezone
from psycopg import errors, sql

from ami_headend import database_roles
from ami_headend.health import doctor
from concentrators.commands import rollouts
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandKind, CommandState, RotationWave
from concentrators.totals import totals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord, DeviceKey
from meters.archive_models import ArchivedMonth
from meters.models import Reading, Register
from meters.readings import partitions
from tests.concentrators.fleet import START_S, WINDOW
from tests.flows import databases, warm
from tests.flows import site as sites
from tests.flows.site import Site, assert_one_verdict_each, assert_readings, frames_of, readings_expected
from tests.flows.stack import Stack, wait_for
from tests.meters.archive.readings import LATER, MONTH


@pytest.fixture(scope="module")
def site(live_stack: Stack) -> Site:
    site = sites.found(live_stack, 4)
    provisioning.provision_stored([NewKey(device.title, 0) for device in site.devices])
    return site


@pytest.fixture
def working(live_stack: Stack) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A connection such as web and workers have."""
    with psycopg.connect(live_stack.env["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def test_ingest_rotation_and_upkeep_work(live_stack: Stack, site: Site) -> None:
    ids = [site.posted(frames_of(site.devices, range(start, start + 5))) for start in (0, 5)]
    sites.wait_verified(ids)
    assert assert_one_verdict_each(ids) == {"accepted": 40}
    assert_readings(site.devices, readings_expected(site.devices, range(10)))

    meter, at = site.devices[0].meter, timezone.now()
    told = Command.objects.create(
        meter=meter,
        kind=CommandKind.SET_INTERVAL,
        state=CommandState.DONE,
        parameters={"interval_minutes": 15, "from_s": START_S},
        next_attempt_at=at,
        expires_at=at,
    )
    live_stack.enqueue("enter_interval_lengths")
    wait_for("the length is entered", Command.objects.filter(pk=told.pk, entered_at__isnull=False).exists)
    lengths = Reading.objects.filter(meter=meter).exclude(interval_minutes=0).values_list("interval_minutes", flat=True)
    assert set(lengths) == {15}
    assert totals.compare(*WINDOW) == []

    rollouts.begin("all", Selection(everything=True), Actor("tester", "test"), timezone.now(), 1_000_000, 0)
    live_stack.enqueue("step_rotation_waves")
    wait_for("the wave queues its commands", lambda: DeviceKey.objects.filter(state="pending").count() == 4)
    for task in ("expire_commands", "retire_keys", "replace_worn_keys", "purge_uplinks", "sweep_uplinks"):
        live_stack.enqueue(task)

    versions = set(DeviceKey.objects.values_list("master_key_version", flat=True))
    done = live_stack.manage("master_key", "rotate")
    assert "Finished: " in done.stdout, done.stderr
    assert not set(DeviceKey.objects.values_list("master_key_version", flat=True)) & versions
    assert live_stack.manage("audit", "verify").returncode == 0
    assert AuditRecord.objects.filter(act="master_key.rotate").exists()
    assert RotationWave.objects.get().state in ("running", "finished")
    assert "Traceback" not in live_stack.logs()


def test_partitions_are_made_and_dropped_past_the_retention_only(live_stack: Stack) -> None:
    """By the task that beat sends, in the role that owns none of them."""
    now = timezone.now()
    ahead = partitions.month_start(now + timedelta(days=62))
    expired = partitions.month_start(partitions.retention_start(now) - timedelta(days=40))
    with psycopg.connect(live_stack.owner_url, autocommit=True) as owner:
        owner.execute(f"DROP TABLE meters_reading_{ahead:%Y_%m}")
        owner.execute("SELECT meters_create_month(%s)", [expired])
    done = live_stack.manage("shell", "-c", "from meters import tasks; tasks.maintain_partitions()")
    assert done.returncode == 0, done.stderr
    with psycopg.connect(live_stack.owner_url) as owner:
        found = {name for (name,) in owner.execute("SELECT inhrelid::regclass::text FROM pg_inherits")}
    assert f"meters_reading_{ahead:%Y_%m}" in found
    assert f"meters_reading_{expired:%Y_%m}" not in found


def test_a_month_goes_into_the_archive_and_comes_back(live_stack: Stack, site: Site, tmp_path: Path) -> None:
    """A restore that was interrupted is undone, and then done as a whole."""
    half = "restoring._begin(month, now) or restoring._restore_file(store(), month)"
    script = f"""
from django.conf import settings
from django.utils import timezone
from meters.archive import months, restoring, verification
from meters.archive.files import store
settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = {f"file://{tmp_path}/archive"!r}, 13
month, now = months.month_of("{MONTH:%Y-%m}"), timezone.now()
assert months.archive(month, now)
assert verification.verify_next(now) == month
assert {half}
assert months.archive(month, now)
print(restoring.restore(month, now), "restored")
"""
    register = Register.objects.order_by("pk")[0]
    try:
        for day in (1, 2):
            Reading.objects.create(
                meter=site.devices[0].meter, register=register, captured_at=MONTH + timedelta(days=day), value=day,
                uplink_id=1,
            )  # fmt: skip
        done = live_stack.manage("shell", "-c", script)
        assert "2 restored" in done.stdout, done.stderr
        assert sorted(Reading.objects.filter(captured_at__lt=LATER).values_list("value", flat=True)) == [1, 2]
    finally:
        ArchivedMonth.objects.all().delete()
        Reading.objects.filter(captured_at__lt=LATER).delete()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keyvault_auditrecord SET actor = 'nobody'",
        "DELETE FROM keyvault_auditrecord",
        "TRUNCATE keyvault_auditrecord",
        "ALTER TABLE keyvault_auditrecord DISABLE TRIGGER keyvault_audit_append_only",
        "DROP TRIGGER keyvault_audit_append_only ON keyvault_auditrecord",
        "CREATE TRIGGER mine BEFORE INSERT ON keyvault_auditrecord EXECUTE FUNCTION keyvault_audit_refuse_change()",
        "CREATE OR REPLACE FUNCTION keyvault_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "SET session_replication_role = replica",
        "UPDATE meters_householdaccess SET account = 'nobody'",
        "UPDATE meters_householdaccess SET requests = 1, last_at = now()",
        "DELETE FROM meters_householdaccess",
        "TRUNCATE meters_householdaccess",
        "ALTER TABLE meters_householdaccess ADD COLUMN mine integer",
        "CREATE OR REPLACE FUNCTION meters_access_days() RETURNS integer LANGUAGE sql AS 'SELECT 0'",
        "DELETE FROM keyvault_auditkey",
        "DELETE FROM keyvault_approval",
        "UPDATE meters_reading SET value = 0",
        "DELETE FROM meters_reading",
        "TRUNCATE meters_reading",
        "TRUNCATE concentrators_uplink CASCADE",
        "ALTER TABLE meters_reading ADD COLUMN mine integer",
        "DROP TABLE keyvault_devicekey CASCADE",
        "CREATE TABLE mine (n integer)",
        "CREATE TEMPORARY TABLE mine (n integer)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX mine ON meters_meter (name)",
        "CREATE OR REPLACE FUNCTION meters_retention_days() RETURNS integer LANGUAGE sql AS 'SELECT 0'",
        "SELECT meters_drop_month(date_trunc('month', now(), 'UTC'))",
        "SELECT meters_drop_month(NULL)",
        "SELECT setval(pg_get_serial_sequence('keyvault_devicekey', 'id'), 1)",
        "INSERT INTO django_migrations (app, name, applied) VALUES ('keyvault', '9999', now())",
        "UPDATE auth_permission SET codename = 'mine'",
        "CREATE ROLE mine",
        "SET ROLE postgres",
        "COPY keyvault_fleetkey TO PROGRAM 'cat'",
    ],
)
def test_postgresql_refuses(working: "psycopg.Connection[tuple[object, ...]]", site: Site, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        working.execute(statement)


def test_the_functions_make_nothing_but_partitions(working: "psycopg.Connection[tuple[object, ...]]") -> None:
    for start in ("now()", "'2000-01-01 00:00+01'", "'1800-01-01 00:00+00'", "'3000-01-01 00:00+00'", "NULL"):
        with pytest.raises(errors.RaiseException, match="does not begin a month"):
            working.execute(f"SELECT meters_create_month({start})")


def test_the_audit_chain_may_be_added_to_and_read(working: "psycopg.Connection[tuple[object, ...]]") -> None:
    chain.record(Actor("tester", "test"), "test", {})
    assert working.execute("SELECT count(*) > 0 FROM keyvault_auditrecord").fetchone() == (True,)
    assert working.execute("SELECT has_table_privilege('keyvault_auditrecord', 'INSERT')").fetchone() == (True,)


def test_looks_at_households_are_added_counted_and_not_removed(
    working: "psycopg.Connection[tuple[object, ...]]", live_stack: Stack
) -> None:
    """Through the functions of the owner alone; what is old goes, whatever is asked for."""
    at = timezone.now()
    hour, old = at.replace(minute=0, second=0, microsecond=0), at - timedelta(days=settings.ACCESS_KEEP_DAYS + 1)
    note = "SELECT meters_note_accesses(%s, 'look', 'door', ARRAY[NULL::int], ARRAY[NULL::bigint], %s)"
    for seen_at in (at, at + timedelta(seconds=1), old):
        working.execute(note, [hour, seen_at])
    working.execute(note, [old, old])
    rows = "SELECT requests, last_at FROM meters_householdaccess WHERE account = 'look' ORDER BY hour DESC"
    assert working.execute(rows).fetchall() == [(3, at + timedelta(seconds=1)), (1, old)]
    assert working.execute("SELECT meters_purge_accesses('infinity')").fetchone() == (1,)
    assert working.execute(rows).fetchall() == [(3, at + timedelta(seconds=1))]
    done = live_stack.manage("shell", "-c", "from meters import tasks; tasks.purge_accesses()")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def env(live_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    owner, role, name = (f"{databases.WORKING_ROLE}_{word}" for word in ("owner", "web", "database"))
    folder = tmp_path_factory.mktemp("roles")
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as cluster:

        def run(text: str, *names: str) -> None:
            cluster.execute(sql.SQL(text).format(*map(sql.Identifier, names)))

        for one in (owner, role):
            run("CREATE ROLE {} LOGIN PASSWORD 'x'", one)
        run("CREATE DATABASE {} OWNER {}", name, owner)
        url = databases.at_database(os.environ["DATABASE_URL"], name)
        try:
            yield {
                **live_stack.env,
                "AMI_VAR_DIR": str(folder),
                "DATABASE_URL": databases.in_role(url, role, "x"),
                "OWNER_DATABASE_URL": databases.in_role(url, owner, "x"),
            }
        finally:
            run("DROP DATABASE {} WITH (FORCE)", name)
            for one in (owner, role):
                run("DROP ROLE {}", one)


WELL = "owns nothing and may not change the audit record"


class TestOwnerAndWorkingRole:
    """A new database of two ordinary roles, from its first migration on."""

    def manage(self, env: dict[str, str], *words: str, **changed: str) -> "subprocess.CompletedProcess[str]":
        return warm.run([sys.executable, "manage.py", *words], env | changed)

    def role_finding(self, env: dict[str, str], days: int = settings.RETENTION_DAYS) -> str:
        with databases.default_at(env["DATABASE_URL"]), override_settings(RETENTION_DAYS=days):
            return doctor._role().found

    def test_from_the_first_migration_to_a_well_database(self, env: dict[str, str]) -> None:
        without = self.manage(env, "migrate", OWNER_DATABASE_URL="")
        assert (without.returncode, without.stderr.count("\n")) == (1, 1)
        assert "Set OWNER_DATABASE_URL to the role that does." in without.stderr
        done = self.manage(env, "migrate", "--verbosity", "0")
        assert done.returncode == 0, done.stderr
        assert self.role_finding(env) == WELL
        with databases.default_at(env["DATABASE_URL"]):
            assert doctor._partitions().well
        assert self.manage(env, "migrate", "--check").returncode == 0
        assert self.manage(env, "migrate").returncode == 0
        # One role for all: it works, and doctor says what is wrong with it.
        alone = {**env, "DATABASE_URL": env["OWNER_DATABASE_URL"], "OWNER_DATABASE_URL": ""}
        assert "tables and sequences; " in self.role_finding(alone)
        assert "may change the audit record" in self.role_finding(alone)

    def test_rights_follow_what_was_changed_behind(self, env: dict[str, str]) -> None:
        assert self.manage(env, "migrate", "--verbosity", "0").returncode == 0
        with psycopg.connect(env["OWNER_DATABASE_URL"], autocommit=True) as owner:
            role = psycopg.conninfo.conninfo_to_dict(env["DATABASE_URL"])["user"]
            changes = "GRANT DELETE ON keyvault_auditrecord TO {0}; REVOKE SELECT ON meters_meter FROM {0}"
            owner.execute(sql.SQL(changes).format(sql.Identifier(str(role))))
        assert "may change the audit record" in self.role_finding(env)
        printed = self.manage(env, "grant_rights", "--dry-run").stdout
        assert f'GRANT SELECT, INSERT ON TABLE "public"."keyvault_auditrecord" TO "{role}";' in printed
        assert "may change the audit record" in self.role_finding(env)
        done = self.manage(env, "grant_rights")
        assert done.stdout == f"Role {role} has the rights that web and workers need, and no others here.\n"
        assert self.role_finding(env) == WELL
        assert "RETENTION_DAYS is 400" in self.role_finding(env, 400)
        assert self.manage(env, "grant_rights", RETENTION_DAYS="400").returncode == 0
        assert self.role_finding(env, 400) == WELL

    def test_what_cannot_be_granted_is_one_sentence(self, env: dict[str, str]) -> None:
        missing = self.manage(env, "grant_rights", "--role", "nobody at all")
        assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
        assert 'role "nobody at all" does not exist' in missing.stderr
        same = self.manage(env, "grant_rights", OWNER_DATABASE_URL=env["DATABASE_URL"])
        assert "must name two roles" in same.stderr
        reversed_ = self.manage(env, "grant_rights", OWNER_DATABASE_URL="")
        assert "must name two roles" in reversed_.stderr


def test_every_table_with_rights_of_its_own_exists(live_stack: Stack) -> None:
    with psycopg.connect(live_stack.owner_url) as owner:
        for table in database_roles._UNUSUAL:
            assert owner.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone() == (True,), table
