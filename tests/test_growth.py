"""The benchmark of growth, tiny: what is filled looks like households, and every part measures and is resumed."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from bench import archive_day, growth, growth_fill
from bench.fleet import REGISTERS
from meters.archive import layout
from meters.models import Reading

ROOT = Path(__file__).resolve().parent.parent
YESTERDAY = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.mark.django_db
def test_each_interval_is_what_its_register_grew_by() -> None:
    growth_fill.add_day(YESTERDAY, growth_fill.INTERVALS, 3, 1)
    growth_fill.add_day(YESTERDAY, growth_fill.INTERVALS, 3, 1)  # a day that is filled is filled anew
    rows = Reading.objects.order_by("meter_id", "captured_at").values_list("meter_id", "register__obis_code", "value")
    assert len(rows) == 2 * growth_fill.INTERVALS * 3
    for meter in (1, 2, 3):
        register = [value for one, code, value in rows if (one, code) == (meter, REGISTERS[0])]
        interval = [value for one, code, value in rows if (one, code) == (meter, REGISTERS[1])]
        assert interval[1:] == [after - before for before, after in pairwise(register)]
        assert min(interval) > 0
        assert len(set(interval)) > 30


def test_readings_are_laid_out_over_days_and_last_intervals() -> None:
    last = datetime(2026, 3, 2, 20, tzinfo=UTC)
    found = growth_fill.layout(100_000_000, 1_000_000, last)
    daily = len(found.days) * growth_fill.INTERVALS * found.daily_meters
    assert 2 * (daily + found.last_intervals * 1_000_000) == pytest.approx(100_000_000, rel=0.001)
    assert found.last_intervals == 12
    assert found.days[-1] < (last - timedelta(days=1)).date()
    assert growth_fill.layout(1_000, 1_000_000, last).last_intervals == 0


def test_a_day_of_the_archive_is_written_and_read(tmp_path: Path) -> None:
    acts = archive_day.acts(tmp_path, 60, 1)
    for act in acts.values():
        act()
    table = pq.read_table(tmp_path / "day.parquet")
    assert table.num_rows == 60 * 192
    assert list(layout.in_order(table.to_batches()))


def test_a_number_that_was_measured_is_not_filled_in_again() -> None:
    """Its rows would take the place of those of the number that the run was stopped at."""
    measured: dict[str, dict[str, object]] = {
        "100": {"questions": {}, "tasks": {}},
        "200": {"questions": {}, "tasks": {}, "copies": {}},
    }
    assert growth.is_measured(measured, 100, 200, 1)
    assert not growth.is_measured(measured, 200, 200, 1)
    assert growth.is_measured(measured, 200, 200, 0)
    assert not growth.is_measured({"100": {"questions": {}}}, 100, 200, 1)


@pytest.mark.soak  # it fills a database, stops, goes on, and archives: a minute
@pytest.mark.timeout(600)
def test_growth_is_measured_and_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ["--meters", "60", "--readings", "20000", "--rounds", "1", "--requests", "1", "--dense", "1"]
    command = [sys.executable, "-m", "bench.growth", *words, "--keep", str(tmp_path / "kept")]
    env = {**os.environ, "COLUMNS": "160"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stdout + run.stderr
    of_step = json.loads((tmp_path / "kept" / "figures.json").read_text())["20000"]
    assert of_step.keys() == {"upkeep", "sizes", "ingest", "questions", "tasks", "copies", "archive"}
    assert of_step["sizes"]["readings"] == pytest.approx(20_000, rel=0.5)
    assert of_step["ingest"][0]["postgres_us"] > 0
    assert of_step["questions"]["a meter's load profile, a day"]["blocks"] > 0
    assert of_step["copies"]["pg_dump"]["gb"] > 0
    (month,) = of_step["archive"].values()
    assert month["csv is the same"]
    assert month["run"]["program_mib"] > 50
    again = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert " parts" in run.stdout
    assert " parts" not in again.stdout
    assert "filling" not in again.stdout
