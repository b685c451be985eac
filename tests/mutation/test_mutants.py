"""The runner of mutants: what it makes is made again by its seed, a break of a rule is told, and counts go on."""

import os
import signal
import time
from pathlib import Path
from random import Random

import cbor2
import pytest

from tests.mutation import forms, run
from tests.mutation.__main__ import main, report
from tests.mutation.operators import mutated, restructured

FEW = 40
SOAKED = int(os.environ.get("SOAK_MUTANTS", "3_000_000"))
FORMS = sorted(run.table())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("soak") is None:
        monkeypatch.setattr(run, "CHUNK", FEW)


@pytest.mark.parametrize("form", FORMS)
def test_mutants_of_every_form_keep_the_rules(form: str) -> None:
    judged = run.judge(run.Chunk(7, form, 0))
    assert judged.failed == ""
    assert judged.outcomes.total() == FEW


def test_the_same_chunk_is_the_same_mutants() -> None:
    for form in ("frame ccm 10", "payload plain", "shipment", "dlms in whole hdlc"):
        one, again, other = (list(run.mutants(run.Chunk(seed, form, 3))) for seed in (1, 1, 2))
        assert one == again != other
    long = [restructured(cbor2.dumps([{0: [], 1: {}}, []]), Random(number % 50)) for number in range(1_000)]
    assert long[:50] * 20 == long


def test_samples_are_right_before_they_are_changed() -> None:
    table = run.table()
    for name in FORMS:
        outcomes = {table[name].judge(table[name].rewrap(sample)) for sample in table[name].samples}
        assert outcomes & {"opened", "read", "parsed", "notifications", "whole", "malformed"}, name
        if name.startswith(("frame", "dlms", "hop")):
            assert "opened" in outcomes, name


def test_operators_change_octets_and_keep_items_whole() -> None:
    chance, sample = Random(1), cbor2.dumps([{-1: 26, 0: "1-0:1.8.0", 2: 7}])
    assert len({mutated(sample, [sample, bytes(9)], chance) for _ in range(200)}) > 150
    assert mutated(b"", [b"x"], chance) in (b"", b"x")
    changed = [restructured(sample, chance) for _ in range(200)]
    assert len({*changed}) > 60
    # Tags with a wrong content are whole items, too, but no value of Python.
    assert sum(isinstance(cbor2.loads(one), list) for one in changed if b"\xc4" not in one) > 150
    assert restructured(b"\xff", chance) == b"\xff"


def test_a_judge_that_breaks_is_told_with_its_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = forms.Form([b"good"], lambda mutant: {b"good": "fine"}[mutant])
    monkeypatch.setattr(run, "table", lambda: {"toy": broken})
    judged = run.judge(run.Chunk(5, "toy", 0))
    assert judged.failed.startswith("5/toy/0 mutant 0: KeyError: ")
    greedy = forms.Form([b"good"], lambda mutant: str(len(bytes(run.PEAK_OCTETS + 1))))
    monkeypatch.setattr(run, "table", lambda: {"toy": greedy})
    assert "octets of memory" in run.judge(run.Chunk(5, "toy", 0)).failed


def test_a_pause_is_no_hang_and_a_loop_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def paused(mutant: bytes) -> str:
        time.sleep(0.3)  # as a stopped process, it takes no CPU
        return "parsed"

    def loops(mutant: bytes) -> str:
        while True:
            pass

    monkeypatch.setattr(run, "CHUNK", 1)
    monkeypatch.setattr(run, "HANGS_AFTER_S", 0.2)
    before = signal.signal(signal.SIGPROF, run._hangs)
    try:
        for judge, failed in ((paused, ""), (loops, "5/toy/0 mutant 0: TimeoutError: ")):
            toy = {"toy": forms.Form([b"good"], judge)}
            monkeypatch.setattr(run, "table", lambda toy=toy: toy)
            told = run._judge_in_time(run.Chunk(5, "toy", 0)).failed
            assert told.startswith(failed)
            assert bool(told) == bool(failed)
    finally:
        signal.signal(signal.SIGPROF, before)


def test_counts_go_on_from_a_file(tmp_path: Path) -> None:
    place = tmp_path / "var" / "mutants.json"
    for rounds in (1, 2):
        progress = run.Progress(place, 9)
        progress.add(run.judge(run.Chunk(9, "hop tag", rounds)))
        progress.keep()
        assert (progress.mutants, progress.said["rounds"]) == (rounds * FEW, rounds)
    assert "hop tag: 80, " in report(run.Progress(place, 0))


def test_a_chunk_is_judged_again_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--again", "7/hop tag/0"]) == 0
    assert "malformed" in capsys.readouterr().out


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_mutants_at_length() -> None:
    progress = run.Progress(None, Random().randrange(1, 2**31))
    failed = run.run(progress, SOAKED, 1)
    print(f"\n{report(progress)}")
    assert failed == []
