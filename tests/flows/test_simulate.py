"""`manage.py simulate` against a live head-end: everything equals the truth, and what does not is found."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from concentrators.models import IntegrityFailure, IntervalTotal, Uplink
from concentrators.simulator.spool import Spool
from meters.models import MaskedReading, Meter, Reading
from tests.flows import warm
from tests.flows.stack import Stack, wait_for

pytestmark = pytest.mark.timeout(300)
DIFFERS = 3
SOME_SCHEMES = "ccm,session,hop,sealed + signed,ccm + masked,dlms,dlms in clear,dlms without tag"
Simulate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def simulate(live_stack: Stack) -> Simulate:
    """Runs the command against the live stack to its end."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        texts = [str(argument) for argument in arguments]
        return live_stack.manage("simulate", "--url", live_stack.base_url, *texts, timeout_s=240)

    return run


def write_readings(path: Path, days: int, meters: int = 4) -> Path:
    """Half-hours of some meters as recorded years ago, with a hole here and there."""
    start = datetime(2013, 5, 1, tzinfo=UTC)
    lines = ["meter,timestamp,wh"]
    for meter in range(meters):
        for slot in range(48 * days):
            if (slot * 7 + meter) % 31:
                time_ = start + timedelta(minutes=30 * slot)
                lines.append(f"home-{meter},{time_:%Y-%m-%dT%H:%M:%SZ},{(slot * 37 + meter * 101) % 900}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_recorded_readings_of_all_schemes_with_all_misbehaviour(simulate: Simulate, tmp_path: Path) -> None:
    readings = write_readings(tmp_path / "readings.csv", days=6, meters=15)
    run = "--readings", readings, "--days", 5, "--schemes", "all", "--misbehave", "all=0.01"
    result = simulate(*run, "--batch", 100, "--compress", "gzip")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Truth and totals are equal" in result.stdout
    for kind in (
        "reading_conflict",
        "replayed",
        "counter_reused",
        "counter_too_old",
        "device_suspended",
        "tag_invalid",
        "session_closed",
        "coupon_reused",
        "coupon_unknown",
        "signature_invalid",
        "identity_mismatch",
        "unknown_profile",
        "readings marked 'unauthenticated'",
        "dropped on the local link",
        "sums that do not agree",
        "failures with their frames",  # how far the comparison is
        "readings of meters",
        "signatures of meters",
        "masked values",
    ):
        assert kind in result.stdout
    assert IntegrityFailure.objects.exists()


def test_masked_meters_with_two_authorities(simulate: Simulate) -> None:
    """Meters of every envelope, real authorities: one is away for a time, one is restored; no value leaks."""
    schemes = "ccm + masked,session + masked,sealed + masked,mac + masked"
    result = simulate("--meters", 12, "--days", 1, "--schemes", schemes, "--misbehave", "all=0.01")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Truth and totals are equal" in result.stdout
    found = dict(re.findall(r"│ +([a-z][a-z -]+?) +│ +[\d,]+ │ +([\d,]+) │", result.stdout))
    assert (found["masked values"], found["masked totals"]) == ("576", "48")
    for line in ("masked totals while an authority is away", "answers of a restored authority for starts before"):
        assert line in found
    for kind in ("algorithm_mismatch", "reading_conflict"):
        assert kind in result.stdout
    newest = Meter.objects.filter(mask_group__startswith="sim-").values("pk")
    assert MaskedReading.objects.filter(meter__in=newest).exists()
    assert not Reading.objects.filter(meter__in=newest).exists()


def test_differences_are_found_and_named(simulate: Simulate, tmp_path: Path) -> None:
    """The comparison would see a wrong reading, a wrong total and a wrong verdict."""
    run = (
        "--meters",
        3,
        "--days",
        1,
        "--interval-minutes",
        "15,60",
        "--misbehave",
        "garbage=0.05",
        "--state",
        tmp_path,
    )
    assert simulate(*run).returncode == 0
    uplink = Uplink.objects.filter(rejected__gt=0).latest("pk")
    newest = {"meter_id__in": list(Meter.objects.order_by("-pk").values_list("pk", flat=True)[:3])}
    reading = Reading.objects.filter(**newest).order_by("-captured_at").first()
    assert reading is not None
    Reading.objects.filter(captured_at=reading.captured_at, meter_id=reading.meter_id).update(value=reading.value + 1)
    total = IntervalTotal.objects.filter(concentrator=uplink.concentrator).first()
    assert total is not None
    IntervalTotal.objects.filter(
        concentrator=uplink.concentrator, interval_start=total.interval_start, interval_minutes=total.interval_minutes
    ).update(meters_counted=total.meters_counted + 1)
    Uplink.objects.filter(pk=uplink.pk).update(failures={"tag_invalid": uplink.rejected})
    result = simulate(*run)
    assert result.returncode == DIFFERS, result.stdout + result.stderr
    for named in (
        "DIFFERS: reading of meter",
        "DIFFERS: interval total",
        "DIFFERS:   malformed",
        "DIFFERS:   tag_invalid",
    ):
        assert named in result.stdout


def test_kill_9_and_going_on(live_stack: Stack, simulate: Simulate, tmp_path: Path) -> None:
    state = tmp_path / "state"
    Spool(state).close()  # as a run leaves it that was killed before it had registered
    run = ["--meters", "8", "--days", "3", "--batch", "25", "--schemes", SOME_SCHEMES, "--misbehave", "all=0.005"]
    run += ["--state", str(state)]
    command = [sys.executable, "manage.py", "simulate", "--url", live_stack.base_url, *run]
    for kills in range(2):
        posted = Uplink.objects.count()
        with Path(os.devnull).open("wb") as nowhere:
            child = warm.start(command, live_stack.env, nowhere)
        wait_for("some uplinks are posted", lambda: Uplink.objects.count() > posted + 5, timeout_s=60)  # noqa: B023
        time.sleep(0.05 * kills)
        assert child.poll() is None
        child.kill()
        child.wait()
    result = simulate(*run)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Truth and totals are equal" in result.stdout


def test_no_head_end_is_said_with_an_exit_status(simulate: Simulate) -> None:
    result = simulate("--url", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert result.stderr.startswith("CommandError: No head-end answers at http://127.0.0.1:9")


@pytest.mark.soak  # in make test with processes that do nothing: test_supervision.py
def test_on_its_own_it_starts_a_head_end_and_stops_it(live_stack: Stack, tmp_path: Path) -> None:
    configured = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "MASTER_KEY_FILE")
    env = {name: value for name, value in live_stack.env.items() if name not in configured}
    command = [sys.executable, "manage.py", "simulate", "--meters", "3", "--days", "1"]
    var_dir = tmp_path / "var"
    result = subprocess.run(
        command, env=env | {"AMI_VAR_DIR": str(var_dir)}, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "starting a head-end for this run" in result.stdout
    assert "Truth and totals are equal" in result.stdout
    assert list((var_dir / "simulator").iterdir()) == []  # a run that is over leaves no keys or tokens behind
    for process in psutil.process_iter(["environ", "cmdline"]):
        assert str(var_dir) not in " ".join(process.info["cmdline"] or [])
        assert (process.info["environ"] or {}).get("AMI_VAR_DIR") != str(var_dir)


def test_help_has_examples(simulate: Simulate) -> None:
    text = simulate("--help").stdout
    assert "examples:" in text
    assert "exit status:" in text
