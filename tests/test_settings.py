"""Settings that cannot work stop the start: a sentence for each, and a check with an id for contradictions."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection
from pytest_django import Settings

from ami_headend.celery import app
from ami_headend.settings_checks import check_settings
from tests.flows import warm


def ids() -> set[str | None]:
    return {finding.id for finding in check_settings(None)}


def test_the_defaults_are_well() -> None:
    assert check_settings(None) == []
    assert not [finding for finding in run_checks() if (finding.id or "").startswith("ami_headend")]


def test_the_schedule_sends_every_task_that_nobody_else_does() -> None:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert scheduled <= set(ours)
    without_arguments = {name for name, task in ours.items() if not inspect.signature(task.run).parameters}
    assert without_arguments - scheduled == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"RETENTION_DAYS": 0}, "ami_headend.E001"),
        ({"UPLINK_MAX_FRAMES": -1}, "ami_headend.E001"),
        ({"COUNTER_GAP_RUNS": 1023}, "ami_headend.E002"),
        ({"UPLINK_RATE": "often"}, "ami_headend.E003"),
        ({"DEBUG": True, "TLS": True}, "ami_headend.E004"),
        ({"FRAME_MAX_OCTETS": 31}, "ami_headend.E005"),
        ({"UPLINK_MAX_OCTETS": 1000, "FRAME_MAX_OCTETS": 1001}, "ami_headend.E006"),
        ({"UPLINK_KEEP_DAYS": 30, "UPLINK_KEEP_WAITING_DAYS": 29}, "ami_headend.E007"),
        ({"RETENTION_DAYS": 9, "RETRANSMISSION_WINDOW_S": 864_000}, "ami_headend.E008"),
        ({"UPLINK_KEEP_DAYS": 1, "UPLINK_SWEEP_AFTER_S": 86_400}, "ami_headend.E009"),
        ({"COMMAND_RATE": "often"}, "ami_headend.E003"),
        ({"KEY_GRACE_DAYS": 9, "RETRANSMISSION_WINDOW_S": 864_000}, "ami_headend.E013"),
        ({"KEY_ROTATE_AT_COUNTER": 2**23}, "ami_headend.E014"),
        ({"MASTER_KEY_PROVIDER": "vault"}, "ami_headend.E015"),
        ({"MASTER_KEY_PROVIDER": "pkcs11", "PKCS11_MODULE": "/usr/lib/hsm.so"}, "ami_headend.E016"),
        ({"MASTER_KEY_DESTROY_AFTER_DAYS": -1}, "ami_headend.E017"),
        ({"RESENDS_PER_DAY": 0}, "ami_headend.E001"),
        ({"UPLINK_ROWS_KEEP_DAYS": 1100}, "ami_headend.E026"),
        ({"FAILURE_KEEP_DAYS": 100, "UPLINK_KEEP_WAITING_DAYS": 180}, "ami_headend.E027"),
        ({"URL_PREFIX": "ami"}, "ami_headend.E040"),
        ({"WEB_SPOOL_OCTETS": 1000}, "ami_headend.E041"),
        ({"WEB_POST_S": 0.0}, "ami_headend.E001"),
        ({"WEB_SILENCE_S": 4.0}, "ami_headend.E042"),
        ({"RESEND_GAPS_DAYS": 1, "RESEND_GAPS_AFTER_S": 86_400}, "ami_headend.E024"),
        ({"PROXY_COUNT": -1}, "ami_headend.E018"),
        ({"ALERT_EXCHANGE_S": 61}, "ami_headend.E031"),
        ({"FEED_EXCHANGE_S": 601}, "ami_headend.E074"),
        ({"FEED_FOLDERS": ["/srv/feed", "feed"]}, "ami_headend.E075"),
        ({"CELL": "North"}, "ami_headend.E076"),
        ({"CELL": "a_b"}, "ami_headend.E076"),
        ({"CELL": "x" * 17}, "ami_headend.E076"),
        ({"KEY_JOURNAL_MIRRORS": ["/mnt/a"], "KEY_JOURNAL_MIRRORS_NEEDED": "two"}, "ami_headend.E070"),
        ({"KEY_JOURNAL_MIRRORS": [], "KEY_JOURNAL_MIRRORS_NEEDED": "one"}, "ami_headend.E071"),
        ({"KEY_JOURNAL_MIRRORS": ["/mnt/a", "/mnt/a"]}, "ami_headend.E072"),
        ({"KEY_JOURNAL_MIRROR_S": 0.0}, "ami_headend.E073"),
        ({"TLS": True, "TWO_FACTOR_REQUIRED": False}, "ami_headend.W019"),
        ({"TLS": True, "REQUIRE_APPROVAL": False}, "ami_headend.W025"),
        ({"APPROVAL_EXPIRES_HOURS": 0}, "ami_headend.E001"),
        ({"TLS": True, "REDIS_URL": "redis://redis.example/0"}, "ami_headend.W029"),
        ({"TLS": True, "REDIS_URL": "redis://:pw@redis.example/0"}, "ami_headend.W029"),
        ({"TLS": True, "REDIS_URL": "rediss://redis.example/0"}, "ami_headend.W029"),
        ({"TLS": True, "REDIS_URL": "rediss://:pw@redis.example/0?ssl_cert_reqs=none"}, "ami_headend.W030"),
    ],
)
def test_contradictions_have_an_id(settings: Settings, changed: dict[str, Any], expected: str) -> None:
    for name, value in changed.items():
        setattr(settings, name, value)
    assert expected in ids()


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:pw@redis.example/0?ssl_ca_certs=/ca.pem",
        "redis://127.0.0.1/0",
        "redis://[::1]/0",
        "unix:///r.sock?db=0",
    ],
)
def test_a_redis_that_nobody_else_reaches_is_not_warned_of(settings: Settings, url: str) -> None:
    settings.TLS, settings.REDIS_URL = True, url
    assert not ids() & {"ami_headend.W029", "ami_headend.W030"}


def test_a_trial_on_the_embedded_database_is_not_warned_of_approvals(settings: Settings) -> None:
    settings.TLS, settings.REQUIRE_APPROVAL, settings.IS_EMBEDDED = True, False, True
    assert "ami_headend.W025" not in ids()


def test_the_master_key_is_not_served_nor_open_to_others(settings: Settings, tmp_path: Path) -> None:
    key = tmp_path / "master.keys"
    key.write_text("{}")
    settings.MASTER_KEY_FILE = key
    key.chmod(0o640)
    assert ids() == {"ami_headend.E011"}
    key.chmod(0o600)
    assert ids() == set()
    tmp_path.chmod(0o777)
    assert ids() == {"ami_headend.W012"}
    tmp_path.chmod(0o700)
    settings.STATIC_ROOT = tmp_path
    assert ids() == {"ami_headend.E010"}


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("RETENTION_DAYS", "many", 'Settings: Environment variable "RETENTION_DAYS" invalid'),
        ("DATABASE_URL", "nonsense://x", 'Settings: Environment variable "DATABASE_URL" invalid'),
        ("DATABASE_URL", "mysql://headend@db/headend", "Settings: DATABASE_URL must begin with postgres://"),
        ("REDIS_URL", "http://redis", "Settings: REDIS_URL must begin with redis://"),
        ("LOG_LEVEL", "loud", 'Settings: Environment variable "LOG_LEVEL" invalid'),
        ("TLS", "perhaps", 'Settings: Environment variable "TLS" invalid'),
        ("DATABASE_URL", "", "Settings: DATABASE_URL is not set: set it to postgres://"),
        ("REDIS_URL", "", "Settings: REDIS_URL is not set: set it to rediss://"),
        ("SECRET_KEY", "", "Settings: SECRET_KEY is not set: set it to 50 random characters"),
    ],
)
def test_a_bad_variable_is_one_sentence(variable: str, value: str, sentence: str) -> None:
    done = warm.run([sys.executable, "manage.py", "check"], {**os.environ, variable: value})
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.django_db
def test_a_session_whose_host_died_in_a_transaction_ends() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("10min",)
    assert connection.get_connection_params()["keepalives_idle"] == 60


def test_options_that_the_url_gives_stand() -> None:
    program = "from django.conf import settings; print(settings.DATABASES['default']['OPTIONS'])"
    url = "postgres://h/n?options=-c%20work_mem%3D8MB&keepalives_idle=7&sslmode=require"
    environ = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "ami_headend.settings"}
    shown = warm.run([sys.executable, "-c", program], environ)
    for part in ("'options': '-c work_mem=8MB'", "'keepalives_idle': 7", "'sslmode': 'require'"):
        assert part in shown.stdout


def test_a_folder_that_cannot_be_written_is_one_sentence() -> None:
    environ = {"PATH": os.environ["PATH"], "AMI_LOCAL": "1", "AMI_VAR_DIR": "/dev/null/var"}
    done = subprocess.run([sys.executable, "manage.py", "check"], env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Settings: The secret key /dev/null/var/secret.key cannot be read or made")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["-m", "celery", "--app", "ami_headend", "worker"], ["-m", "ami_headend", "web"]])
def test_no_process_starts_without_an_address(command: list[str]) -> None:
    """Neither is a socket in `var/` meant, nor is one made."""
    done = subprocess.run([sys.executable, *command], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY"):
        assert f"{name} is not set" in done.stderr


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"DATABASE_URL": "postgres://u@db/x"}, "True False"),
        ({"DATABASE_URL": "postgres://u@db/x", "AMI_LOCAL": "1"}, "True False"),
        ({"DATABASE_URL": "postgres://u@db/x", "EMBEDDED_DATABASE_URL": "postgres://u@db/y"}, "True False"),
        ({"DATABASE_URL": "postgres://u@db/x", "EMBEDDED_DATABASE_URL": "postgres://u@db/x"}, "False False"),
        ({"DATABASE_URL": "postgres://u@db/x", "DEBUG": "1", "TLS": "0"}, "False False"),
        ({"DATABASE_URL": "postgres://u@db/x", "REQUIRE_APPROVAL": "0"}, "False False"),
        ({"DATABASE_URL": "postgres://u@db/x", "OWNER_DATABASE_URL": "postgres://o@db/x"}, "True True"),
        ({"OWNER_DATABASE_URL": "postgres://o@db/x"}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgres://u@db/x", "OWNER_DATABASE_URL": "mysql://o@db/x"}, "must begin with postgres://"),
    ],
)
def test_approvals_and_the_owner_follow_from_where_it_runs(
    environ: dict[str, str], expected: str, tmp_path: Path
) -> None:
    code = "from ami_headend import settings as s; print(s.REQUIRE_APPROVAL, s.OWNER_DATABASE is not None)"
    env = {"AMI_VAR_DIR": str(tmp_path), "SECRET_KEY": "x", "REDIS_URL": "redis://r/0", **environ}
    done = warm.run([sys.executable, "-c", code], env)
    assert expected in done.stdout + done.stderr
