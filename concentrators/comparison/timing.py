"""How long the product takes to seal and to open, as ratios to ccm: medians of rounds in which both run in turn."""

from collections.abc import Callable, Sequence
from statistics import median
from time import thread_time_ns
from typing import NamedTuple

from concentrators.comparison.subjects import Subject

_ROUNDS = 9
_ROUND_NS = 2_000_000  # CPU time that a round takes at least, of each


class Times(NamedTuple):
    """Sealing and opening, each as a ratio to ccm. Sealing starts with what a meter had ready."""

    seal: float
    open_: float


def ratios(subjects: Sequence[Subject], rounds: int = _ROUNDS) -> dict[str, Times]:
    """Each subject by its name; the first is what the others are compared with. CPU time of this thread."""
    acts = {one.name: _acts(one) for one in subjects}
    base = acts[subjects[0].name]
    return {
        name: Times(*(_ratio(act, of, rounds) for act, of in zip(pair, base, strict=True)))
        for name, pair in acts.items()
    }


def _acts(subject: Subject) -> tuple[Callable[[], object], Callable[[], object]]:
    sides, reader = subject.sides(), subject.reader()
    frame = sides.seal(reader.make())
    return lambda: sides.seal(reader.make()), lambda: reader.read(sides.open_(frame))


def _ratio(act: Callable[[], object], base: Callable[[], object], rounds: int) -> float:
    repeats, base_repeats = _repeats(act), _repeats(base)
    found = []
    for _ in range(rounds):
        one, other = _each_ns(base, base_repeats), _each_ns(act, repeats)
        found.append(other / one)
    return median(found)


def _repeats(act: Callable[[], object]) -> int:
    act()
    return max(1, int(_ROUND_NS / max(1, _each_ns(act, 3))))


def _each_ns(act: Callable[[], object], repeats: int) -> float:
    before = thread_time_ns()
    for _ in range(repeats):
        act()
    return max(1, thread_time_ns() - before) / repeats
