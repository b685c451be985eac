"""The comparison as tables: what a frame costs, what is withstood, and times; as text, CSV or Markdown. No Django."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import zip_longest
from typing import NamedTuple

from concentrators.comparison.microcontroller import Figures
from concentrators.comparison.primitives import Work
from concentrators.comparison.subjects import Counted, Subject, subjects
from concentrators.comparison.timing import Times
from concentrators.comparison.withstands import PRIVACY, PROOF, THREATS, Power, is_private, is_proof, withstands

WORDS: Mapping[str, str] = {
    "aes_blocks": "AES",
    "ghash": "GHASH",
    "sha256_blocks": "SHA-256",
    "sha512_blocks": "SHA-512",
    "x25519": "X25519",
    "scalar_multiplications": "scalar mult.",
    "modular_multiplications": "mod. mult.",
}
_NONE = "-"


class Compared(NamedTuple):
    """A scheme with what its frame costs and what it withstands; times and Cortex-M0+ where they are known."""

    subject: Subject
    counted: Counted
    powers: Mapping[str, Power]
    times: Times | None

    @property
    def beyond(self) -> int:
        """The octets of a frame beyond the plain reading."""
        return len(self.counted.octets) - len(self.subject.reading)


class Table(NamedTuple):
    """A table: its title, columns, and rows of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def compare(times: Mapping[str, Times] | None = None) -> list[Compared]:
    """Count a frame of every scheme; AssertionError where the product seals other octets than were counted."""
    return [_compared(one, None if times is None else times[one.name]) for one in subjects()]


def _compared(one: Subject, times: Times | None) -> Compared:
    counted, sides, reader = one.counted(), one.sides(), one.reader()
    made = sides.seal(reader.make())
    # Ed25519 of the library makes its own R: there the product opens what was counted.
    same = made == counted.octets or one.content == "Ed25519"
    said = reader.read(sides.open_(counted.octets))
    if not same or (one.content != "masked" and said != one.reading):
        raise AssertionError(f"{one.name}: the frame that was counted is not the product's")
    return Compared(one, counted, withstands(one.name, one.envelope, one.content), times)


def costs(compared: Sequence[Compared], figures: Figures | None) -> Table:
    """What a frame costs: exact, and the same in every run."""
    counts = [name for name in WORDS if name != "scalar_multiplications"]  # no frame takes one
    columns = ["scheme", "octets beyond", *(WORDS[name] for name in counts), "once a key or boot", "while idle"]
    columns += ["writes", "Cortex-M0+, instructions"]
    rows = []
    for one in compared:
        frame, counted = one.counted.frame.counts, one.counted
        idle = words(counted.ahead) + (f" for {counted.ahead_frames} frames" if counted.ahead_frames > 1 else "")
        rows.append(
            [
                one.subject.name,
                str(one.beyond),
                *(str(frame[name] or _NONE) for name in counts),
                words(counted.once),
                idle,
                writes(one.subject.writes),
                on_cortex_m0(counted.frame, figures),
            ]
        )
    return Table("What a frame costs its meter", columns, rows)


def protection(compared: Sequence[Compared]) -> Table:
    """What attackers can do with readings."""
    columns = ["scheme", *(title for title, _ in THREATS.values()), PROOF, PRIVACY]
    rows = [
        [
            one.subject.name,
            *(one.powers[threat].words for threat in THREATS),
            "yes" if is_proof(one.subject.content) else "no",
            "yes" if is_private(one.subject.content) else "no",
        ]
        for one in compared
    ]
    return Table("What attackers can do with readings", columns, rows)


def timed(compared: Sequence[Compared]) -> Table:
    """Times, as ratios to the first; no row without them."""
    rows = [
        [one.subject.name, f"{one.times.seal:.1f}", f"{one.times.open_:.1f}"]
        for one in compared
        if one.times is not None
    ]
    return Table(f"CPU time, {compared[0].subject.name} = 1", ["scheme", "to seal", "to open"], rows)


def words(work: Work) -> str:
    """Counts in words: 12 SHA-256, 2 X25519."""
    return ", ".join(f"{count} {WORDS[name]}" for name, count in work.counts.items() if count) or _NONE


def writes(frames: Sequence[int]) -> str:
    """Writes to non-volatile memory: one a boot, and one in so many frames."""
    return ", ".join(["1 a boot", *(f"1 in {number} frames" for number in frames)])


def on_cortex_m0(work: Work, figures: Figures | None) -> str:
    """The instructions of all primitives of some work; a dash where nothing was counted."""
    return _NONE if figures is None else f"{figures.of(work):,}"


def as_text(tables: Sequence[Table]) -> str:
    """Aligned columns for a terminal."""
    return "\n\n".join(f"{one.title}\n\n{_aligned(one)}" for one in tables) + "\n"


def _aligned(one: Table) -> str:
    lines = [one.columns, *one.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_markdown(tables: Sequence[Table]) -> str:
    """Tables for a document."""
    return "\n".join(map(markdown, tables))


def markdown(one: Table) -> str:
    """A table for a document, with its title as a paragraph."""
    lines = [one.columns, ["---"] * len(one.columns), *one.rows]
    return f"**{one.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """One line for each scheme, with the columns of all tables."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    used = [one for one in tables if one.rows]
    for lines in zip_longest(*([one.columns, *one.rows] for one in used)):
        writer.writerow([lines[0][0], *(cell for line in lines for cell in line[1:])])
    return out.getvalue()
