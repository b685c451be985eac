"""The benchmark, tiny: in `make soak` its parts run, check their results, write figures and leave nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.urls import resolve
from pytest_django import DjangoDbBlocker

from bench import addresses, million
from tests.flows import databases

ROOT = Path(__file__).resolve().parent.parent

TINY = "--rounds 1 --growth-rounds 1 --frames 80 --sizes 20 --concentrators 2 --concentrator-meters 20"
TINY += " --rowwise-frames 4 --meters 20,60 --readings 800 --page-meters 200 --requests 1"
TINY += " --warm-rounds 1 --warm-requests 0 --users 2"


def _bench(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "COLUMNS": "160"}
    command = [sys.executable, "-m", "bench", "--folder", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)


def test_the_pages_that_are_timed_are_there(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Their database is filled, and each of their addresses is one of a page."""
    with django_db_blocker.unblock(), databases.copied():
        million.fill(200, lambda _: None, 2)
        timed = addresses.every()
    assert len(timed) > 150
    for address in timed:
        resolve(urlsplit(address.path).path)


@pytest.mark.soak  # nine parts, most of which start processes or another database: two minutes
@pytest.mark.timeout(600)
def test_every_part_measures_and_tells(tmp_path: Path) -> None:
    figures_file = tmp_path / "figures.json"
    services = tmp_path / "services"
    services.mkdir()

    run = _bench(services, *TINY.split(), "--json", str(figures_file))

    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(figures_file.read_text())
    assert len(figures["floor"]) == 1
    assert figures["system"]["20"][0]["frames"] == 80
    assert figures["system"]["20"][0]["cpu_us_per_frame"].keys() >= {"worker", "web", "PostgreSQL", "Redis"}
    assert figures["system_of_floor"]["20"][0] > 0
    assert figures["half_load"]["20"]["latency_p99_s"] > 0
    assert figures["system_over_rowwise"][0] > 0
    assert figures["schemes"]["rounds"].keys() == {"session", "mac", "hop", "agreed", "sealed", "mixed"}
    assert all(len(rounds) == 1 for rounds in figures["schemes"]["rounds"].values())
    assert figures["schemes"]["first_frames"]["agreed"]["scheme"]["frames"] == 40
    assert figures["schemes"]["hpke_openings_of_one_process"][0] > 0
    assert figures["dlms"]["rounds"].keys() == {"dlms", "ccm and dlms"}
    assert figures["dlms"]["rounds"]["dlms"][0]["scheme"]["frames"] == 80
    assert figures["dlms"]["dlms_cosem_of_one_process"] == []  # it is not in this environment
    assert "no loop of dlms-cosem" in run.stdout
    assert len(figures["rewrap"]) == 1
    assert len(figures["feed"]["cpu_us_with_lots_and_without"]) == 1
    assert figures["feed"]["rows_s"].keys() >= {"ndjson", "csv", "parquet"}
    assert len(figures["pages"]["addresses"]) > 150
    assert figures["pages"]["exports"][0]["rows"] > 0
    assert figures["pages"]["posts_s"]
    assert figures["growth"].keys() == {
        "20 meters",
        "60 meters, each once",
        "60 meters, the base's load",
        "800 readings",
    }
    assert "of the floor" in run.stdout
    assert list(services.iterdir()) == []


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    run = _bench(tmp_path, "--parts", "ceiling")

    assert run.returncode == 2
    assert "'ceiling' is none of floor, system, rowwise, growth, schemes, dlms, rewrap, feed, pages" in run.stderr
