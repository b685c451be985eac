"""The closing report of a run: what was expected and found, line by line, and every difference in words. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_NAMED = 10
# Is told what is compared, how much of it was, and of how much.
Look = Callable[[str, int, int], None]


def nobody_looks(what: str, done: int, of: int) -> None:
    """Nobody wants to know how far the comparison is."""


class Line(NamedTuple):
    """One line of the report: how many were expected, and how many the head-end has."""

    what: str
    expected: int
    found: int


@dataclass
class Closing:
    """The report: lines, and every difference in words (the first of each sort, and how many more)."""

    look: Look = nobody_looks
    lines: list[Line] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def count(self, what: str, expected: int, found: int) -> None:
        self.lines.append(Line(what, expected, found))
        if expected != found:
            self.differences.append(f"{what}: expected {expected:,}, the head-end has {found:,}")

    def name(self, sentences: list[str]) -> None:
        self.differences += sentences[:_NAMED]
        if len(sentences) > _NAMED:
            self.differences.append(f"… and {len(sentences) - _NAMED:,} more of this sort")


def differences(what: str, truth: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    """Describe the differences between two mappings, each in a sentence."""
    if truth == found:
        return []
    keys = sorted(key for key in truth.keys() | found.keys() if truth.get(key) != found.get(key))
    return [f"{what} {tuple(key)}: expected {truth.get(key)}, the head-end has {found.get(key)}" for key in keys]
