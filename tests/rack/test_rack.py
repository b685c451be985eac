"""The rack's own decisions, and in the soak the rack itself."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

import pytest

from tests.rack import machine, preconditions
from tests.rack.cells import CELLS, NAMES
from tests.rack.hosts import Host, sides
from tests.rack.matrix import Measured, longest, table
from tests.rack.rack import CODE

CELL_S = 240  # on a machine that does much else


def test_two_groups_are_parted_in_both_directions_and_no_host_from_itself() -> None:
    one, two, three = (Host(name, number, Path()) for number, name in enumerate(("one", "two", "three")))
    pairs = {(here.name, there.name) for here, there in sides([one, two], [two, three])}
    assert pairs == {
        ("one", "two"), ("two", "one"), ("one", "three"), ("three", "one"), ("two", "three"), ("three", "two"),
    }  # fmt: skip


def test_the_longest_silence_counts_from_the_fault_on() -> None:
    assert longest([0.0, 10.0, 11.0, 15.0, 16.0], since=10.5) == 4.0
    assert longest([0.0, 10.0], since=1.0) == 10.0  # it began before, and ended after
    assert longest([], since=0.0) == 0.0


def test_the_table_tells_what_was_measured() -> None:
    found = Measured("kill web", untaken_s=3.44, frames=80, answers=Counter({"202": 20, "503": 2}))
    failed = Measured("kill redis", primary_s=1.0, failure="FAILS: lost")
    lines = table([found, failed]).splitlines()
    assert lines[2] == "| kill web |  | 3.4 | 0.0 | 0.0 | 0.0 | 80 | 503 2 | holds |"
    assert lines[3].endswith("| FAILS: lost |")
    assert len({line.count("|") for line in lines}) == 1


def test_every_cell_has_a_name_of_its_own() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert NAMES.keys() > {cell.name for cell in CELLS}


def test_it_says_why_it_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert preconditions.lacking() == ["it needs root, for namespaces of the network"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "etcd is missing (package etcd-server)" in preconditions.lacking()


def test_a_service_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "AGAIN_AFTER_S", 0.0)
    log = tmp_path / "log"
    service = machine.Service({"command": [sys.executable, "-c", ""], "env": {}, "log": str(log)})
    until = monotonic() + 60
    while not log.exists() or log.read_text().count("ended with 0") < 2:
        service.look()
        assert monotonic() < until
    service.stop()


@pytest.mark.soak
@pytest.mark.timeout(CELL_S * len(NAMES))
def test_the_rack_holds() -> None:
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "tests.rack", "--patience", "3"]
    done = subprocess.run(command, cwd=CODE, env=environ, capture_output=True, text=True, check=False)
    if done.returncode == preconditions.CANNOT:
        pytest.skip(done.stderr.strip())
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
