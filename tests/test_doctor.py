"""manage.py doctor finds what is broken, says what to do, and ends with 1."""

import json
import threading
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import make_server

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from ami_headend import settings_checks
from ami_headend.alerts.models import Rule
from ami_headend.health import doctor, heartbeats, host, neighbours
from ami_headend.health.results import CheckResult
from ami_headend.local import embedded
from ami_headend.models import Heartbeat
from ami_headend.processes import worker_command
from concentrators.models import Concentrator, Uplink
from keyvault import journal, master_key
from keyvault.audit.chain import Actor
from keyvault.device_keys.provisioning import provision_devices
from keyvault.masking import pinned
from keyvault.masking.pinned import MaskAuthorityToPin
from mask_authority.service import application
from tests.factories import MeterFactory
from tests.flows.stack import Stack, free_port, wait_for

TITLE = bytes.fromhex("0024befffe804ff1")


@pytest.fixture
def quick(db: None) -> None:
    """No worker and no schedule lives in these tests. Rules were looked at just now."""
    Rule.objects.update(evaluated_at=timezone.now())


def findings() -> dict[str, CheckResult]:
    return {finding.name: finding for finding in doctor.examine()}


def failed() -> set[str]:
    """What is not well; tests act in the owner's role themselves, which is."""
    return {name for name, finding in findings().items() if not finding.well}


def test_a_whole_deployment_is_well(live_stack: Stack) -> None:
    live_stack.start("beat")
    wait_for("the rules are evaluated", lambda: Rule.objects.exclude(evaluated_at=None).exists())
    done = live_stack.manage("doctor", "--json")
    assert {finding["name"]: finding["well"] for finding in json.loads(done.stdout)} == dict.fromkeys(
        [
            "database",
            "database role",
            "broker",
            "workers",
            "schedule",
            "hosts",
            "master key",
            "key journal",
            "journal mirrors",
            "disk",
            "sign-in provider",
            "migrations",
            "clock",
            "partitions",
            "master key opens",
            "restored",
            "standbys",
            "sessions",
            "backlog",
            "alerts",
            "client addresses",
            "laboratory meters",
            "deadlines",
            "messages",
            "meter identities",
            "siem",
            "mask authorities",
        ],
        True,
    )
    assert done.returncode == 0
    live_stack.stop("worker")
    live_stack.start("alerts", worker_command(1, ["alerts", "deliveries", "background"]))
    done = live_stack.manage("doctor")
    assert "FAIL  workers: no worker serves the queue uplinks" in done.stdout
    live_stack.stop("alerts")
    done = live_stack.manage("doctor")
    assert done.returncode == 1
    assert "FAIL  workers: none is running\n      Start them: " in done.stdout


def test_standbys_that_do_not_follow_are_told(quick: None, settings: Settings) -> None:
    assert findings()["standbys"][1:3] == (True, "none expected")
    settings.DATABASE_STANDBYS = 2
    assert findings()["standbys"][1:3] == (False, "0 of 2 follow the primary")


@pytest.mark.django_db
def test_where_the_setting_for_standbys_that_lag_is_not_in_force_it_is_told(settings: Settings) -> None:
    settings.STANDBY_MAY_LAG = True
    well, found, to_do = neighbours.standbys()
    assert not well
    assert "STANDBY_MAY_LAG=1 is set, but not in force" in found
    assert "grant_rights" in to_do
    journal.bind_to_timeline(may_lag=True)  # as grant_rights does
    assert neighbours.standbys()[0]
    settings.STANDBY_MAY_LAG = False
    well, found, _ = neighbours.standbys()
    assert not well
    assert "STANDBY_MAY_LAG is not set, but in force" in found
    journal.bind_to_timeline(may_lag=False)
    assert neighbours.standbys()[0]


def heartbeat(name: str, silent: timedelta = timedelta(), trouble: str = "") -> Heartbeat:
    at = timezone.now() - silent
    return Heartbeat.objects.create(
        name=name,
        kind=heartbeats.WEB,
        queues=[],
        processes=1,
        started_at=at,
        beat_at=at,
        clock_off_s=0,
        trouble=trouble,
    )


def test_hosts_that_were_lost_or_find_something_wrong_are_told(quick: None) -> None:
    heartbeat("web@one")
    assert findings()["hosts"].well
    heartbeat("web@two", trouble="broker: Redis accepts nothing")
    heartbeat("web@three", timedelta(minutes=1))
    heartbeat("web@four", timedelta(days=2))  # nobody waits for it any more
    found = findings()["hosts"]
    assert not found.well
    lost, troubled = found.found.split("; ")
    assert lost.startswith("web@three has given no sign of life for 6")
    assert troubled == "web@two: broker: Redis accepts nothing"


def test_a_host_that_was_lost_for_good_is_forgotten(quick: None) -> None:
    heartbeat("web@one")
    heartbeat("web@two", timedelta(minutes=1))
    with pytest.raises(CommandError, match=r"web@one is not lost\. Lost: web@two\."):
        call_command("doctor", "--forget", "web@one")
    with pytest.raises(SystemExit):  # for there are no workers
        call_command("doctor", "--forget", "web@two")
    assert findings()["hosts"].well
    with pytest.raises(CommandError, match=r"Lost: none is lost\."):
        call_command("doctor", "--forget", "web@two")


def test_a_host_says_what_is_wrong_where_it_is(settings: Settings, tmp_path: Path) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.KEY_JOURNAL_DIR = str(tmp_path / "journal")
    (tmp_path / "journal").write_text("no folder")
    assert host.of_schedule().startswith("broker: Redis accepts nothing")
    assert "; key journal: " in host.of_worker()


def test_a_host_says_that_a_mirror_lacks_what_it_wrote(settings: Settings, tmp_path: Path) -> None:
    """Others cannot look at it: a mirror is the one of a host."""
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.KEY_JOURNAL_MIRRORS = [str(tmp_path / "mirror")]
    assert f"journal mirrors: {tmp_path / 'mirror'}: there is no folder" in host.of_worker()
    (tmp_path / "mirror").mkdir()
    assert "journal mirrors" not in host.of_worker()


@pytest.mark.usefixtures("quick")
def test_mirrors_of_a_key_journal_that_cannot_be_used_end_no_check(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("no folder")
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.KEY_JOURNAL_MIRRORS = [str(tmp_path)]
    found = findings()
    assert [found[name].well for name in ("key journal", "journal mirrors", "database")] == [False, False, True]
    assert "the key journal itself cannot be used" in found["journal mirrors"].found


def test_a_locked_table_costs_its_own_checks_alone(live_stack: Stack) -> None:
    with psycopg.connect(live_stack.owner_url) as other:
        other.execute("LOCK TABLE concentrators_uplink")
        done = live_stack.manage("doctor", "--json", timeout_s=90)
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["backlog"]["found"].startswith("did not answer within 5 s")
    assert "pg_locks" in found["backlog"]["to_do"]
    assert found["partitions"]["well"]
    assert found["alerts"]["name"] == "alerts"


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_a_look_that_hangs_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOOK_S", 0)
    monkeypatch.setitem(doctor._BESIDE_DATABASE, "disk", lambda: time.sleep(30))
    found = findings()
    assert found["disk"].found == "did not answer within 1 s"
    assert found["broker"].well


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_a_clock_that_is_behind_is_told_by_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """All agree on the time, and every tenth frame of the last hour is from the future."""
    concentrator = Concentrator.objects.create(name="DCU-1")
    now = timezone.now()
    Uplink.objects.create(
        concentrator=concentrator,
        received_at=now,
        due_at=now,
        verified_at=now,
        sha256=bytes(32),
        octets=0,
        frames=100,
        accepted=60,
        rejected=40,
        failures={"clock_skew": 40},
    )
    assert "40 of 100 frames of the last hour are from the future" in findings()["clock"].found
    Uplink.objects.update(failures={"clock_skew": 2})
    assert findings()["clock"].well
    monkeypatch.setattr("ami_headend.core.kernelclock.is_synchronised", lambda: False)
    monkeypatch.setattr("django.conf.settings.TLS", True)
    monkeypatch.setattr("django.conf.settings.IS_EMBEDDED", False)
    assert "nothing keeps its clock right" in findings()["clock"].found


def test_nothing_running_says_how_to_start(tmp_path: Path) -> None:
    stack = Stack(0, {"PATH": "/usr/bin:/bin", "AMI_VAR_DIR": str(tmp_path), "AMI_LOCAL": "1"}, tmp_path)
    done = stack.manage("doctor")
    assert done.returncode == 1
    assert "FAIL  database: connection is bad" in done.stdout
    assert f"Start it with make up; if make up runs in {tmp_path}" in done.stdout
    assert "FAIL  broker" in done.stdout
    assert "no master key file" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_server_elsewhere_is_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("django.conf.settings.REDIS_URL", embedded.redis_url(tmp_path))
    assert host.broker().to_do == "Check the address, the network, and whether the server runs."


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_without_workers_only_that_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    provision_devices([TITLE])
    assert failed() == {"workers", "schedule", "database role"}
    with pytest.raises(SystemExit) as ended:
        call_command("doctor")
    assert ended.value.code == 1
    assert "ok    master key opens: 2 stored keys tried" in capsys.readouterr().out


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_a_foreign_or_open_master_key_is_found(settings: Settings, tmp_path: Path) -> None:
    provision_devices([TITLE])
    settings.MASTER_KEY_FILE = tmp_path / "other.keys"
    master_key.init(settings.MASTER_KEY_FILE)
    assert failed() == {"workers", "schedule", "database role", "master key opens"}
    settings.MASTER_KEY_FILE.chmod(0o644)
    assert failed() == {"workers", "schedule", "database role", "master key", "master key opens"}
    assert "chmod 600" in findings()["master key"].found


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_a_backlog_that_grows_old_is_found() -> None:
    received_at = timezone.now() - doctor.BACKLOG_AGE_MAX - timedelta(seconds=1)
    Uplink.objects.create(
        concentrator=Concentrator.objects.create(name="DCU-1"),
        received_at=received_at,
        due_at=received_at,
        sha256=bytes(32),
        body=b"",
        octets=0,
        frames=0,
    )
    assert failed() == {"workers", "schedule", "database role", "backlog"}


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_rules_that_nobody_looks_at_or_can_look_at_are_found() -> None:
    rule = Rule.objects.order_by("name")[0]
    Rule.objects.filter(pk=rule.pk).update(last_error="OperationalError: no room")
    assert failed() == {"workers", "schedule", "database role", "alerts"}
    assert f"{rule.name}: OperationalError: no room" in findings()["alerts"].found
    Rule.objects.update(last_error="", evaluated_at=timezone.now() - doctor.EVALUATED_LATE - timedelta(seconds=1))
    assert findings()["alerts"].found.startswith("no rule has been evaluated since")
    Rule.objects.update(evaluated_at=None)
    assert findings()["alerts"].found == "no rule has been evaluated yet"
    Rule.objects.update(is_enabled=False)
    assert failed() == {"workers", "schedule", "database role"}


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_missing_partitions_are_found(settings: Settings) -> None:
    settings.RETENTION_DAYS = 5000
    assert failed() == {"workers", "schedule", "database role", "partitions"}
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'meters_reading'::regclass")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {name}")
    assert findings()["partitions"].found.startswith("none for now")


@pytest.mark.django_db
@pytest.mark.usefixtures("quick")
def test_migrations_clock_and_disk_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: real() + timedelta(seconds=30))
    assert "clock" in failed()
    monkeypatch.setattr("django.utils.timezone.now", real)
    usage: Any = SimpleNamespace(total=10**12, free=10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    assert "disk" in failed()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'concentrators'")
    assert "manage.py migrate" in findings()["migrations"].to_do


def test_laboratory_meters_in_production_are_named(quick: None, settings: Settings) -> None:
    """As of a database that was a laboratory's: the mark keeps alerts silent."""
    meter = MeterFactory.create(is_laboratory=True)
    settings.IS_PRODUCTION = False
    assert findings()["laboratory meters"].well
    assert settings_checks.check_laboratory(None, databases=["default"]) == []
    settings.IS_PRODUCTION = True
    found = findings()["laboratory meters"]
    assert (found.well, str(meter) in found.found, "--end" in found.to_do) == (False, True, True)
    (warning,) = settings_checks.check_laboratory(None, databases=["default"])
    assert str(meter) in warning.msg
    assert settings_checks.check_laboratory(None, databases=None) == []
    call_command("bench_meter", bytes(meter.system_title).hex(), "--end", stdout=StringIO())
    assert findings()["laboratory meters"].well
    with pytest.raises(CommandError, match="is no laboratory meter"):
        call_command("bench_meter", bytes(meter.system_title).hex(), "--end")


class TestMaskAuthorities:
    def test_none_is_pinned(self, quick: None) -> None:
        assert findings()["mask authorities"][1:3] == (True, "none is pinned")

    def test_one_that_does_not_answer_is_named(self, quick: None) -> None:
        """The other is an authority's own server; it needs no key to say that it serves."""
        with make_server("127.0.0.1", 0, application(None)) as server:  # type: ignore[arg-type]
            threading.Thread(target=server.serve_forever, daemon=True).start()
            addresses = {"council": server.server_port, "university": free_port()}
            for name, port in addresses.items():
                public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
                one = MaskAuthorityToPin(name, f"http://127.0.0.1:{port}", "", public)
                pinned.pin(one, Actor("officer", "test"), timezone.now())
            found = findings()["mask authorities"]
            assert not found.well
            assert found.found.startswith(f"university at http://127.0.0.1:{addresses['university']}: it cannot be")
            pinned.withdraw("university", Actor("officer", "test"), timezone.now())
            assert findings()["mask authorities"][1:3] == (True, "1 answer")
            server.shutdown()
