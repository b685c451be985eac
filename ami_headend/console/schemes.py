"""The page of protection schemes side by side: what a frame costs its meter, and who can read or forge readings."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from django.conf import settings

from ami_headend.console import charts
from ami_headend.console.charts import Chart, Series
from ami_headend.console.formatting import NOTHING, wrapped
from ami_headend.console.page import ConsolePage
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.comparison import microcontroller
from concentrators.comparison import table as comparison
from concentrators.comparison.subjects import ED25519, HOP_TAG, SHARED
from concentrators.comparison.table import Compared
from concentrators.comparison.withstands import THREATS, Power, is_private, is_proof

_BLOCKS = (
    ("aes_blocks", charts.PLAIN),
    ("sha256_blocks", charts.SECOND),
    ("sha512_blocks", charts.UNSURE),
    ("ghash", charts.FAINT),
)
_NOT_ASKED = ("replay",)  # nobody wins anything by it, in any scheme


class SchemesPage(ConsolePage):
    """Every scheme in one table; it is counted once in each process, and is the same for all deployments."""

    route = "keyvault/schemes/"
    name = "schemes"
    title = "Schemes side by side"
    icon = "compare_arrows"
    permission_required = ("keyvault.view_devicekey",)
    template_name = "console/keys/schemes.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        found = _compared()
        return {
            **super().get_context_data(**kwargs),
            "octets": _octets(found),
            "blocks": _blocks(found),
            "frames": _frames(found),
            "beside": _beside(found),
            "protection": _protection(found),
            "others": (HOP_TAG, ED25519, SHARED),
        }


@cache
def _compared() -> list[Compared]:
    return comparison.compare()


def _octets(found: Sequence[Compared]) -> Chart:
    said = ", ".join(f"{one.subject.name} {one.beyond}" for one in found)
    series = [Series("octets beyond the reading", [one.beyond for one in found])]
    return charts.bars(
        "octets", f"Octets of a frame beyond its reading: {said}.", _names(found), series, "octets", names_each=True
    )


def _blocks(found: Sequence[Compared]) -> Chart:
    series = [
        Series(comparison.WORDS[name], [one.counted.frame.counts[name] for one in found], colour)
        for name, colour in _BLOCKS
    ]
    said = ", ".join(f"{one.subject.name} {comparison.words(one.counted.frame)}" for one in found)
    summary = f"Blocks that a meter computes for a frame: {said}."
    return charts.bars("blocks", summary, _names(found), series, "blocks", names_each=True)


def _names(found: Sequence[Compared]) -> list[str]:
    return [one.subject.name for one in found]


def _frames(found: Sequence[Compared]) -> HtmlTable:
    figures = microcontroller.read(settings.BASE_DIR / microcontroller.FIGURES)
    rows = [
        [
            wrapped(one.subject.name),
            str(one.beyond),
            wrapped(comparison.words(one.counted.frame)),
            wrapped(comparison.on_cortex_m0(one.counted.frame, figures)),
        ]
        for one in found
    ]
    return table(columns_of("scheme", "#octets beyond", "work", "-Cortex-M0+, instructions"), rows)


def _beside(found: Sequence[Compared]) -> HtmlTable:
    rows = []
    for one in found:
        ahead = one.counted.ahead
        idle = comparison.words(ahead) if any(ahead.counts.values()) else NOTHING
        if one.counted.ahead_frames > 1:
            idle += f" for {one.counted.ahead_frames} frames"
        told = one.subject.name, comparison.words(one.counted.once), idle, comparison.writes(one.subject.writes)
        rows.append(list(map(wrapped, told)))
    return table(columns_of("scheme", "once a key or boot", "while idle", "-writes to non-volatile memory"), rows)


def _protection(found: Sequence[Compared]) -> HtmlTable:
    columns = columns_of(
        "scheme", "who can read", "who can forge", "-proof to third parties", "-private from the head-end"
    )
    rows = [
        [
            wrapped(one.subject.name),
            wrapped(_who(one, Power.READS)),
            wrapped(_who(one, Power.FORGES)),
            "yes" if is_proof(one.subject.content) else "no",
            "yes" if is_private(one.subject.content) else "no",
        ]
        for one in found
    ]
    return table(columns, rows)


def _who(one: Compared, power: Power) -> str:
    """The attackers that have a power over a scheme's readings."""
    who = (THREATS[threat][0] for threat, has in one.powers.items() if power in has and threat not in _NOT_ASKED)
    return "; ".join(who) or "nobody"
