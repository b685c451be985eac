"""Cells on paper: how concentrators spread over whole head-ends, and what each needs. No database; arithmetic alone.

    python -m bench.cells                           100 million meters, 50 to 200 cells
    python -m bench.cells --meters 5_000_000 --cells 4,5,8 --seed 7

A concentrator belongs to the cell with the highest score (rendezvous hashing): scores are the octets of SHAKE128 of
its name, eight for each cell. Rates are those of docs/benchmark.md, sizes those of docs/scaling.md.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from hashlib import shake_128
from random import Random
from struct import unpack
from typing import NamedTuple

FRAMES_A_DAY = 96
READINGS_A_FRAME = 2
# Measured, on two cores that did nothing else (docs/benchmark.md): all of a million meters post one frame each.
BURST_FRAMES_S = 99_589
BURST_CORES = 2
# Measured (docs/operations/archive.md, docs/scaling.md).
OCTETS_A_READING = 113
WAL_OCTETS_A_FRAME = 850
DAYS_IN_DATABASE = 395
# Chosen: how long an interval may take to verify, cores of a host, and hosts that a cell has besides its workers.
INTERVAL_TAKES_S = 60
HOST_CORES = 16
OTHER_HOSTS = 6  # three of the database, two web, one of Redis (docs/operations/hosts.md)
LEAST_WORKER_HOSTS = 2


class Cell(NamedTuple):
    """What one cell has, and what that takes."""

    concentrators: int
    meters: int

    @property
    def frames_s(self) -> float:
        return self.meters * FRAMES_A_DAY / 86_400

    @property
    def burst_s(self) -> float:
        """How long two cores take for one frame of each meter at once."""
        return self.meters / BURST_FRAMES_S

    @property
    def database_tb(self) -> float:
        return self.meters * FRAMES_A_DAY * READINGS_A_FRAME * OCTETS_A_READING * DAYS_IN_DATABASE / 1e12

    @property
    def wal_gb_a_day(self) -> float:
        return self.meters * FRAMES_A_DAY * WAL_OCTETS_A_FRAME / 1e9

    @property
    def cores(self) -> int:
        """Of web, workers and database together, that an interval is verified in time."""
        return math.ceil(self.burst_s * BURST_CORES / INTERVAL_TAKES_S)

    @property
    def hosts(self) -> int:
        return OTHER_HOSTS + max(LEAST_WORKER_HOSTS, math.ceil(self.cores / HOST_CORES))


def concentrators(meters: int, each: int, seed: int) -> list[int]:
    """How many meters each concentrator has: few have very many (log-normal, sigma 0.8), none has none."""
    chance, sigma = Random(seed), 0.8
    count = max(1, meters // each)
    drawn = [chance.lognormvariate(0, sigma) for _ in range(count)]
    scale = meters / sum(drawn)
    return [max(1, round(one * scale)) for one in drawn]


def cell_of(name: str, cells: int) -> int:
    """The cell with the highest score; a cell that is added takes from all, and nothing moves between old ones."""
    scores = unpack(f">{cells}Q", shake_128(name.encode()).digest(8 * cells))
    return scores.index(max(scores))


def half_of(name: str) -> bool:
    """Which half a concentrator goes with when its cell is split in two."""
    return bool(shake_128(b"half " + name.encode()).digest(1)[0] & 1)


class Spread(NamedTuple):
    """A number of cells: each of them, and the shares of meters that move when one is added, and when one is split."""

    cells: list[Cell]
    moves_if_added: float
    moves_if_split: float

    @property
    def largest(self) -> Cell:
        return max(self.cells, key=lambda one: one.meters)

    @property
    def skew(self) -> float:
        """The largest cell over the mean."""
        return self.largest.meters / (sum(one.meters for one in self.cells) / len(self.cells))


def spread(sizes: Sequence[int], count: int) -> Spread:
    """Put concentrators of these sizes into so many cells; then into one more; then split the largest in two."""
    names = [f"DCU-{number}" for number in range(len(sizes))]
    homes = [cell_of(name, count) for name in names]
    in_cell, meters = [0] * count, [0] * count
    for home, size in zip(homes, sizes, strict=True):
        in_cell[home] += 1
        meters[home] += size
    total, largest = sum(sizes), meters.index(max(meters))
    later = (cell_of(name, count + 1) for name in names)
    added = sum(size for home, new, size in zip(homes, later, sizes, strict=True) if home != new)
    split = sum(size for name, home, size in zip(names, homes, sizes, strict=True) if home == largest and half_of(name))
    return Spread([Cell(*one) for one in zip(in_cell, meters, strict=True)], added / total, split / total)


_HEAD = ("cells", "meters: mean", "largest", "skew", "frames/s", "burst, s of 2 cores", "cores", "database, TB",
         "WAL, GB a day", "hosts: a cell", "all", "moves: added", "split")  # fmt: skip


def row(of: Spread) -> tuple[str, ...]:
    """A line of the table; load and needs are those of the largest cell."""
    top, count = of.largest, len(of.cells)
    mean, hosts = sum(one.meters for one in of.cells) / count, sum(one.hosts for one in of.cells)
    return (
        f"{count}", f"{mean:,.0f}", f"{top.meters:,}", f"{of.skew:.3f}", f"{top.frames_s:,.0f}", f"{top.burst_s:.1f}",
        f"{top.cores}", f"{top.database_tb:.1f}", f"{top.wal_gb_a_day:,.0f}", f"{top.hosts}", f"{hosts:,}",
        f"{of.moves_if_added:.2%}", f"{of.moves_if_split:.2%}",
    )  # fmt: skip


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--meters", type=int, default=100_000_000, help="in all (100000000)")
    parser.add_argument("--concentrator-meters", type=int, default=500, help="meters of a concentrator, mean (500)")
    parser.add_argument("--cells", type=lambda text: [int(one) for one in text.split(",")], default=[50, 100, 200])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(words)
    sizes = concentrators(arguments.meters, arguments.concentrator_meters, arguments.seed)
    print(f"{sum(sizes):,} meters of {len(sizes):,} concentrators, the largest {max(sizes):,}; seed {arguments.seed}")
    print("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|")
    for count in arguments.cells:
        print("| " + " | ".join(row(spread(sizes, count))) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
