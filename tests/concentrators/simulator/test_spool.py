"""The spool: a batch stays as it was first posted, held frames come when they may, a kill -9 loses nothing."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from concentrators.simulator.factory import Factory
from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.meter import Memory
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.spool import Batch, Outgoing, Spool, SpoolError
from keyvault.cose.structures import split_sequence
from tests.concentrators.simulator.test_misbehaviour import HEAD_END


def frames(*octets: bytes, concentrator: int = 0) -> list[Outgoing]:
    return [Outgoing(concentrator, one, "accepted") for one in octets]


def take(spool: Spool, size: int = 10, concentrator: int = 0) -> Batch:
    batch = spool.next_batch(concentrator, size, partial=True)
    assert batch is not None
    return batch


def test_batch_is_fixed_until_its_receipt(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.hand_over(frames(b"1", b"2", b"3"), [])
    first = take(spool, 2)
    assert split_sequence(first.body) == [b"1", b"2"]
    spool.close()
    again = Spool(tmp_path)
    again.hand_over(frames(b"4"), [])
    assert take(again, 10) == first
    again.keep_receipt(first, 17)
    assert split_sequence(take(again, 10).body) == [b"3", b"4"]
    assert list(again.posted()) == [(0, 17, {"accepted": 2})]


def test_progress_goes_on_where_an_earlier_process_stopped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.progress() == (0, 0)
    spool.hand_over([*frames(b"1", b"2", b"3"), Outgoing(0, b"late", "accepted", not_before_s=100)], [])
    spool.keep_receipt(take(spool, 2), 7)
    take(spool, 1)  # without a receipt
    assert spool.progress() == (4, 2)
    spool.release_due(100)
    assert spool.progress() == (4, 2)
    spool.close()
    assert Spool(tmp_path).progress() == (4, 2)


def test_a_run_that_goes_on_measures_though_late_frames_are_held(tmp_path: Path) -> None:
    """They are due at a time of the simulation that only comes if meters measure."""
    plan = Plan("0a0b0c0d", 5, ["one", "two", "three"], 1, [30], 0, 86_400, enrolled_every=3)
    assert plan.enrolled
    spool = Spool(tmp_path)
    spool.hand_over([Outgoing(0, b"late", "accepted", not_before_s=50_000)], [], facts={"tick": 3, "enrolling": True})
    assert Production(plan, HouseholdLoad(5, 0), spool, Factory(plan, bytes(32), HEAD_END)).is_ready()


def test_whole_batches_only_unless_partial(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.hand_over(frames(b"1", b"2"), [])
    assert spool.next_batch(0, 3, partial=False) is None
    assert spool.next_batch(1, 1, partial=True) is None
    assert spool.next_batch(0, 2, partial=False) is not None


def test_equal_bodies_are_one_uplink(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.hand_over(frames(b"1"), [])
    spool.keep_receipt(take(spool), 5)
    spool.hand_over([Outgoing(0, b"1", "duplicate")], [])
    spool.keep_receipt(take(spool), 5)
    assert list(spool.posted()) == [(0, 5, {"accepted": 1})]


def test_memories_and_facts_go_with_the_frames(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    memory = Memory(0, 9)
    memory.nonvolatile.write("a", b"b")
    with pytest.raises(TypeError):
        spool.hand_over(frames(b"1"), [memory], facts={"tick": object()})  # fails last
    assert spool.memories() == {}
    assert spool.next_batch(0, 1, partial=True) is None
    spool.hand_over(frames(b"1"), [memory], facts={"tick": 4})
    assert (spool.fact("tick"), spool.fact("other")) == (4, None)
    kept = spool.memories()
    assert {number: (one.register_wh, one.nonvolatile.cells) for number, one in kept.items()} == {0: (9, {"a": b"b"})}
    assert not memory.nonvolatile.changed


def test_held_until_its_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.hand_over([Outgoing(0, b"late", "accepted", not_before_s=100), *frames(b"now")], [])
    assert spool.release_due(99) == 0
    assert split_sequence(take(spool).body) == [b"now"]
    assert spool.release_due(100) == 1
    spool.keep_receipt(take(spool), 1)
    assert split_sequence(take(spool).body) == [b"late"]


def test_held_until_all_before_is_verified(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second, third = frames(b"1", b"2", b"3")
    follower = Outgoing(0, b"follower", "reading_conflict", behind=second)
    last = Outgoing(0, b"last", "counter_too_old", behind=follower)
    spool.hand_over([first, second, third, follower, last], [])
    for uplink in (1, 2, 3):
        spool.keep_receipt(take(spool, 1), uplink)
    assert spool.awaited_uplink(0) == 1
    spool.mark_verified(2)
    assert spool.release_behind(0) == 0  # uplink 1 is not verified yet
    spool.mark_verified(1)
    assert spool.release_behind(0) == 1
    batch = take(spool)
    assert split_sequence(batch.body) == [b"follower"]
    spool.keep_receipt(batch, 4)
    spool.mark_verified(3)
    assert spool.release_behind(0) == 0
    assert not spool.is_drained(0)
    spool.mark_verified(4)
    assert spool.release_behind(0) == 1
    spool.keep_receipt(take(spool), 5)
    assert spool.is_drained(0)
    assert spool.awaited_uplink(0) is None


def test_backlog_is_what_no_batch_holds(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.backlog() == 0
    spool.hand_over(frames(*[b"x"] * 30), [])
    assert spool.backlog() == 30
    take(spool, 10)
    assert spool.backlog() == 20


def test_others_may_not_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "state")
    spool.set_facts(secret="00")
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir()} == {0}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolError, match="another simulation is at work"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path)


def test_discarding_leaves_other_files_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.set_facts(tick=3)
    spool.close()
    (tmp_path / "notes.txt").touch()
    Spool.discard(tmp_path)
    assert (tmp_path / "notes.txt").exists()
    assert Spool(tmp_path).fact("tick") is None


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / Spool.FILE).write_text("not a database, and long enough to be looked at" * 50)
    with pytest.raises(SpoolError, match="cannot hold the state"):
        Spool(tmp_path)


CHILD = """
import sys
from pathlib import Path
from concentrators.simulator.meter import Memory
from concentrators.simulator.spool import Outgoing, Spool
spool = Spool(Path(sys.argv[1]))
tick = spool.fact("tick") or 0
uplink = len(list(spool.posted()))
while True:
    frames = [Outgoing(0, f"{tick}/{n}".encode(), "accepted") for n in range(20)]
    tick += 1
    spool.hand_over(frames, [Memory(0, tick)], facts={"tick": tick})
    while (batch := spool.next_batch(0, 7, partial=False)) is not None:
        with (Path(sys.argv[1]) / "arrived").open("ab") as file:  # the head-end of this test
            file.write(batch.id.to_bytes(4, "big") + len(batch.body).to_bytes(4, "big") + batch.body)
        spool.keep_receipt(batch, batch.id)
    print(tick, flush=True)
"""


def test_kill_9_loses_and_repeats_nothing(tmp_path: Path) -> None:
    for round_ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(5 + round_ * 7):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    spool = Spool(tmp_path)
    bodies: dict[int, bytes] = {}
    log = (tmp_path / "arrived").read_bytes()
    while len(log) >= 8:
        batch_id, length = int.from_bytes(log[:4], "big"), int.from_bytes(log[4:8], "big")
        body, log = log[8 : 8 + length], log[8 + length :]
        if len(body) == length:
            assert bodies.setdefault(batch_id, body) == body  # posted again octet for octet
    while (batch := spool.next_batch(0, 100, partial=True)) is not None:
        assert bodies.setdefault(batch.id, batch.body) == batch.body
        spool.keep_receipt(batch, batch.id)
    arrived = Counter(frame for body in bodies.values() for frame in split_sequence(body))
    assert arrived == Counter(f"{tick}/{n}".encode() for tick in range(spool.fact("tick")) for n in range(20))
    assert spool.memories()[0].register_wh == spool.fact("tick")
