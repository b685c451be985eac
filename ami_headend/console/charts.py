"""Charts of the console: data and options for unfold's chart component (Chart.js)."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ami_headend.console.formatting import PREFIXES

_MUTED = "#8b93a1"
_AXIS = {"grid": {"display": False, "color": ""}, "border": {"display": False}}

# Colours that are readable on both white and the dark background.
GOOD, UNSURE, BAD, PLAIN, SECOND, FAINT = "#16a34a", "#f59e0b", "#dc2626", "#3b82f6", "#8b5cf6", "#94a3b8"


class Series(NamedTuple):
    """One line, or one part of every bar; a value of None is a gap."""

    name: str
    values: Sequence[float | None]
    colour: str = PLAIN


class Chart(NamedTuple):
    """A chart for ``{% chart %}``. ``name`` is unique on its page; ``summary`` describes the chart in words."""

    name: str
    kind: str
    summary: str
    data: str
    options: str


def bars(
    name: str,
    summary: str,
    labels: Sequence[str],
    series: Sequence[Series],
    unit: str = "",
    *,
    names_each: bool = False,
) -> Chart:
    """Return stacked bars, with the labels on the lower axis: as many as fit, or with ``names_each`` all, upright."""
    datasets = [{"label": s.name, "data": list(s.values), "backgroundColor": s.colour} for s in series]
    return _chart(name, "bar", summary, labels, datasets, unit, stacked=True, names_each=names_each)


def lines(
    name: str,
    summary: str,
    labels: Sequence[str],
    series: Sequence[Series],
    unit: str = "",
    scale: tuple[float, float] | None = None,
    marks: Sequence[int] = (),
) -> Chart:
    """Return one line for each series, with gaps kept. ``scale`` fixes both ends of the axis; without it, the values
    do.

    ``marks`` are the indexes of the labels on the axis; without them, as many as fit.
    """
    datasets = [
        {
            "label": s.name,
            "data": list(s.values),
            "borderColor": s.colour,
            "backgroundColor": s.colour,
            "borderWidth": 2,
            "pointRadius": 0,
            "pointHitRadius": 8,
            "spanGaps": False,
        }
        for s in series
    ]
    return _chart(name, "line", summary, labels, datasets, unit, scale, marks, stacked=False)


def _chart(
    name: str,
    kind: str,
    summary: str,
    labels: Sequence[str],
    datasets: list[dict[str, Any]],
    unit: str,
    scale: tuple[float, float] | None = None,
    marks: Sequence[int] = (),
    *,
    stacked: bool,
    names_each: bool = False,
) -> Chart:
    ticks = {"color": _MUTED, "maxTicksLimit": 5}
    names: dict[str, Any] = {"maxTicksLimit": 8, "maxRotation": 0, "autoSkip": not marks}
    if names_each:
        names = {"maxRotation": 90, "minRotation": 90, "autoSkip": False, "font": {"size": 10}}
    options = {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "interaction": {"mode": "index", "intersect": False},
        "plugins": {
            "legend": {
                "display": len(datasets) > 1,
                "align": "end",
                "labels": {
                    "boxHeight": 6,
                    "boxWidth": 6,
                    "usePointStyle": True,
                    "pointStyle": "circle",
                    "color": _MUTED,
                },
            }
        },
        "scales": {
            "x": {
                **_AXIS,
                "stacked": stacked,
                "marks": list(marks),  # live.js
                "ticks": {"color": _MUTED, **names},
            },
            "y": {
                **_AXIS,
                "stacked": stacked,
                "grid": {"display": True, "color": ""},
                "beginAtZero": True,
                **({} if scale is None else {"min": scale[0], "max": scale[1]}),
                "ticks": ticks,
                "title": {"display": bool(unit), "text": unit, "color": _MUTED},
            },
        },
    }
    return Chart(name, kind, summary, json.dumps({"labels": list(labels), "datasets": datasets}), json.dumps(options))


def unit_for(values: Sequence[float | None], unit: str) -> tuple[str, int]:
    """Return the unit with the prefix that suits the largest value, and its size in plain units."""
    largest = max((abs(value) for value in values if value is not None), default=0)
    divisor, prefix = next((d, p) for limit, d, p in PREFIXES if largest < limit)
    return f"{prefix}{unit}", divisor
