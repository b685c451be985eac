"""Cells on paper: repeatable, even, and a cell that is added or split moves what it must and nothing else."""

import pytest

from bench import cells

SIZES = cells.concentrators(1_000_000, 500, 1)


def test_the_same_seed_gives_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for seed in ("1", "1", "2"):
        assert cells.main(["--meters", "200_000", "--cells", "4,5", "--seed", seed]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]
    assert [line.split(" ")[1] for line in told[0].splitlines()[3:]] == ["4", "5"]


def test_meters_are_spread_and_none_is_lost() -> None:
    assert sum(SIZES) == pytest.approx(1_000_000, rel=0.001)
    found = cells.spread(SIZES, 8)
    assert sum(one.meters for one in found.cells) == sum(SIZES)
    assert sum(one.concentrators for one in found.cells) == len(SIZES)
    assert 1 < found.skew < 1.25
    assert found.moves_if_added == pytest.approx(1 / 9, rel=0.2)
    assert found.moves_if_split == pytest.approx(found.largest.meters / sum(SIZES) / 2, rel=0.2)


def test_a_cell_that_is_added_moves_nothing_between_others() -> None:
    for number in range(300):
        name = f"DCU-{number}"
        assert cells.cell_of(name, 9) in (cells.cell_of(name, 8), 8)


def test_what_a_cell_needs_follows_from_the_rates() -> None:
    one = cells.Cell(2_000, 1_000_000)
    assert one.frames_s == pytest.approx(1_111, rel=0.001)
    assert one.database_tb == pytest.approx(8.57, abs=0.01)
    assert (one.cores, one.hosts) == (1, cells.OTHER_HOSTS + cells.LEAST_WORKER_HOSTS)
    assert cells.Cell(1, 10**9).hosts > one.hosts
