"""The rack's own decisions, and in the soak the rack itself."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from tests.builders import KNOWN_TITLE, raw_frame
from tests.flows.load import posting
from tests.rack import former, machine, preconditions
from tests.rack.cells import CELLS, NAMES
from tests.rack.fleet import ObservedSpool
from tests.rack.hosts import Host, empty, halted, sides
from tests.rack.matrix import Measured, longest, table
from tests.rack.rack import CODE

CELL_S = 300  # on a machine that does much else
# One of each kind of fault and of each way to be told of it: `make soak` ends in a bearable time. `make rack` runs all.
IN_SOAK = (
    "kill primary",
    "kill worker with schedule",
    "partition workers from databases",
    "mute web2",
    "lossy workers",
    "postgres of primary frozen",
    "quorum lost",
    "redis frozen",
    "clocks apart",
    "asynchronous promotion",
)


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
    found = Measured("kill web", untaken_s=3.44, frames=80, acts="3 commands", answers=Counter({"202": 20, "503": 2}))
    failed = Measured("kill redis", primary_s=1.0, failure="FAILS: lost")
    lines = table([found, failed]).splitlines()
    assert lines[2] == "| kill web |  | 3.4 | 0.0 | 0.0 | 0.0 | 80 | 3 commands | 503 2 | holds |"
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


def test_a_folder_with_a_disk_of_its_own_is_emptied_and_stays(tmp_path: Path) -> None:
    """Nobody can delete a place where a disk is mounted."""
    (tmp_path / "one.journal").touch()
    (tmp_path / ".one.lock").touch()
    empty(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_soak_names_cells_that_there_are() -> None:
    assert set(IN_SOAK) <= NAMES.keys()


def test_a_service_that_is_not_to_run_is_killed_and_stays_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "AGAIN_AFTER_S", 0.0)
    log = tmp_path / "etcd.log"
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    service = machine.Service({"command": command, "env": {}, "log": str(log)})
    service.look()
    assert service.process is not None
    with halted(Host("one", 1, tmp_path), "etcd"):
        service.look()
        service.look()
        assert service.process is None
    service.look()
    assert service.process is not None
    service.stop()


def test_a_disk_is_full_as_long_as_a_block_runs(tmp_path: Path) -> None:
    if preconditions.lacking():
        pytest.skip("no disk can be made here")
    probe = "from pathlib import Path; from tests.rack.hosts import *; import sys; p = Path(sys.argv[1]);"
    probe += "give_disk(p, 1 << 20); f = p / 'one'\nwith filled(p):\n try: f.write_bytes(bytes(9))\n"
    probe += " except OSError as error: print(error.strerror)\nf.write_bytes(bytes(9)); print('room')"
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", probe, str(tmp_path / "disk")],
        cwd=CODE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["No space left on device", "room"]


@pytest.mark.soak
@pytest.mark.timeout(CELL_S * (len(IN_SOAK) + 2))
def test_the_rack_holds() -> None:
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "tests.rack", "--patience", "3"]
    command += [word for name in IN_SOAK for word in ("--only", name)]
    done = subprocess.run(command, cwd=CODE, env=environ, capture_output=True, text=True, check=False)
    if done.returncode == preconditions.CANNOT:
        pytest.skip(done.stderr.strip())
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


class Ending:
    """Somebody at work who ends early."""

    ended = Event()

    def run(self) -> None:
        raise ValueError("a wrong answer")


def test_who_ends_early_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="a wrong answer"), posting([Ending()]):
        pass


def test_a_nonce_that_comes_with_other_octets_is_found(tmp_path: Path) -> None:
    spool = ObservedSpool(tmp_path)
    first, other = raw_frame(), raw_frame(ciphertext=b"\x49another00")
    for octets in (first, first):
        spool.post_mail(0, KNOWN_TITLE, octets, "", 0)
    with pytest.raises(AssertionError, match="a nonce was used twice"):
        spool.post_mail(0, KNOWN_TITLE, other, "", 0)
    spool.close()


class TestFormer:
    """Which commit stands for the former release."""

    @staticmethod
    def git(folder: Path, *words: str) -> str:
        who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
        return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout

    def history(self, folder: Path, migrations: set[int], commits: int) -> list[str]:
        """A repository of so many commits, some of which add a migration; their names, the oldest first."""
        (folder / "app" / "migrations").mkdir(parents=True)
        self.git(folder, "init", "--quiet")
        for number in range(commits):
            place = "app/migrations/" if number in migrations else ""
            (folder / f"{place}{number:04}_of.py").write_text("")
            self.git(folder, "add", "--all")
            self.git(folder, "commit", "--quiet", "--message", str(number))
        return self.git(folder, "log", "--reverse", "--format=%H").split()

    def test_it_is_the_newest_one_before_a_migration_that_is_far_enough_back(self, tmp_path: Path) -> None:
        names = self.history(tmp_path, {2, 4, 7}, 9)
        assert former.commit(tmp_path, 3) == names[3]  # before 4: five commits ago; before 7 it is two
        assert former.commit(tmp_path, 6) == names[1]
        folder = former.check_out(names[3], tmp_path / "there", tmp_path)
        assert sorted(path.stem for path in folder.rglob("*.py")) == [f"{number:04}_of" for number in range(4)]

    def test_it_says_why_there_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        with pytest.raises(former.NoHistoryError, match="no git repository"):
            former.commit(tmp_path / "none")
        whole, shallow = tmp_path / "whole", tmp_path / "shallow"
        self.history(whole, {1}, 3)
        with pytest.raises(former.NoHistoryError, match="no migration was added 24 commits ago"):
            former.commit(whole)
        self.git(tmp_path, "clone", "--quiet", "--depth", "1", whole.as_uri(), str(shallow))
        with pytest.raises(former.NoHistoryError, match="shallow"):
            former.commit(shallow)
