"""The sections of the status page: what a user may see of the present state, ready for the template."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ami_headend.console import queries
from concentrators import uplinks
from concentrators.models import IntegrityFailure, Uplink
from concentrators.verdicts import FailureKind, Severity

CHART_MINUTES = 30
FAILURES_PERIOD = timedelta(hours=24)
HEARD_PERIOD = timedelta(hours=24)
POSTED_PERIOD = timedelta(hours=1)
ROWS = 8
SEVERITY_COLOURS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "danger"}

_VERDICT_COLOURS = {"accepted": "#16a34a", "duplicate": "#f59e0b", "rejected": "#dc2626"}
_AXIS = {"stacked": True, "grid": {"display": False, "color": ""}, "border": {"display": False}}
_CHART_OPTIONS = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "interaction": {"mode": "index", "intersect": False},
    "plugins": {
        "legend": {
            "align": "end",
            "labels": {
                "boxHeight": 6,
                "boxWidth": 6,
                "usePointStyle": True,
                "pointStyle": "circle",
                "color": "#8b93a1",
            },
        }
    },
    "scales": {
        "x": {**_AXIS, "ticks": {"color": "#8b93a1", "maxTicksLimit": 8, "maxRotation": 0}},
        "y": {
            **_AXIS,
            "grid": {"display": True, "color": ""},
            "beginAtZero": True,
            "suggestedMax": 10,
            "ticks": {"color": "#8b93a1", "precision": 0, "maxTicksLimit": 5},
        },
    },
}


class Column(NamedTuple):
    """A column of a table: numbers stand to the right, minor columns are left out on a phone."""

    title: str
    is_number: bool = False
    is_minor: bool = False


class Cell(NamedTuple):
    """What stands in a row under a column."""

    column: Column
    content: Any


class Table(NamedTuple):
    """A short table of the status page."""

    columns: list[Column]
    rows: list[list[Cell]]


def status(user: Any, now: datetime) -> dict[str, Any]:
    """The sections that the user may see; each asks a fixed number of statements."""
    sections: dict[str, Any] = {"now": now, "figures": []}
    if user.has_perm("concentrators.view_uplink"):
        _add_traffic(sections, now)
    if user.has_perm("meters.view_meter"):
        _add_meters(sections, now)
    if user.has_perm("concentrators.view_concentrator"):
        _add_concentrators(sections, now)
    if user.has_perm("concentrators.view_failuretally"):
        sections["kinds"] = _kinds(queries.failures_by_kind(now - FAILURES_PERIOD), now)
    if user.has_perm("concentrators.view_integrityfailure"):
        sections["failures"] = _failures_table(queries.latest_failures(ROWS), now)
        sections["failures_url"] = reverse("admin:concentrators_integrityfailure_changelist")
    return sections


def ago(at: datetime | None, now: datetime) -> SafeString | str:
    """How long ago, with the exact time as a tooltip."""
    if at is None:
        return "never"
    seconds = max(0, int((now - at).total_seconds()))
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            text = f"{seconds // unit} {name} ago"
            break
    else:
        text = f"{seconds // 86_400} days ago"
    exact = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


def _add_traffic(sections: dict[str, Any], now: datetime) -> None:
    minutes = queries.frames_by_minute(now, CHART_MINUTES)
    totals = {verdict: sum(getattr(minute, verdict) for minute in minutes) for verdict in _VERDICT_COLOURS}
    verified = sum(totals.values())
    backlog = uplinks.backlog()
    period = f"last {CHART_MINUTES} minutes"
    sections["figures"] += [
        _figure("Frames verified", f"{verified:,}", period, "verified"),
        _figure("Rate", f"{_rate(minutes):,.1f} /s", "last full minute", "speed"),
        _figure("Accepted", f"{totals['accepted']:,}", _share(totals["accepted"], verified), "task_alt"),
        _figure("Duplicate", f"{totals['duplicate']:,}", _share(totals["duplicate"], verified), "content_copy"),
        _figure("Rejected", f"{totals['rejected']:,}", _share(totals["rejected"], verified), "gpp_bad"),
        _figure("Uplinks waiting", f"{backlog.uplinks:,}", _lag(backlog.oldest_received_at, now), "hourglass_empty"),
    ]
    sections["chart"] = _chart(minutes)
    sections["chart_options"] = json.dumps(_CHART_OPTIONS)
    sections["uplinks"] = _uplinks_table(queries.latest_uplinks(ROWS), now)
    sections["uplinks_url"] = reverse("admin:concentrators_uplink_changelist")


def _add_meters(sections: dict[str, Any], now: datetime) -> None:
    heard = queries.meters_heard(now, HEARD_PERIOD, ROWS)
    note = f"last 24 hours; {heard.never:,} never" if heard.never else "last 24 hours"
    sections["figures"].append(_figure("Meters heard", f"{heard.heard:,} of {heard.expected:,}", note, "sensors"))
    sections["silent"] = _table(
        [Column("meter"), Column("last heard"), Column("through", is_minor=True)],
        [
            [
                _link("admin:meters_meter_change", meter.id, meter.serial_number),
                ago(meter.heard_at, now),
                _clipped(meter.via or "-"),
            ]
            for meter in heard.silent
        ],
    )
    sections["meters_url"] = reverse("admin:meters_meter_changelist")


def _add_concentrators(sections: dict[str, Any], now: datetime) -> None:
    active, posting, rows = queries.concentrators(now, POSTED_PERIOD, ROWS)
    sections["figures"].append(
        _figure("Concentrators posting", f"{posting:,} of {active:,}", "last hour", "settings_input_antenna")
    )
    sections["concentrators"] = _table(
        [
            Column("concentrator"),
            Column("last heard"),
            Column("uplinks", is_number=True, is_minor=True),
            Column("frames", is_number=True),
            Column("rejected", is_number=True),
        ],
        [
            [
                _link("admin:concentrators_concentrator_change", row.id, row.name),
                ago(row.heard_at, now),
                f"{row.uplinks:,}",
                f"{row.frames:,}",
                f"{row.rejected:,}",
            ]
            for row in rows
        ],
    )
    sections["concentrators_url"] = reverse("admin:concentrators_concentrator_changelist")


def _table(columns: list[Column], rows: Iterable[Sequence[Any]]) -> Table:
    return Table(columns, [[Cell(*pair) for pair in zip(columns, row, strict=True)] for row in rows])


def _figure(title: str, value: str, note: str, icon: str) -> dict[str, str]:
    return {"title": title, "value": value, "note": note, "icon": icon}


def _rate(minutes: list[queries.Minute]) -> float:
    """Frames per second in the last minute that is over."""
    return float(sum(minutes[-2][1:])) / 60


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "no frames yet"


def _lag(oldest: datetime | None, now: datetime) -> str:
    return "nothing waits" if oldest is None else f"oldest for {max(0.0, (now - oldest).total_seconds()):,.1f} s"


def _chart(minutes: Iterable[queries.Minute]) -> str:
    minutes = list(minutes)
    return json.dumps(
        {
            "labels": [f"{minute.start:%H:%M}" for minute in minutes],
            "datasets": [
                {"label": verdict, "data": [int(getattr(m, verdict)) for m in minutes], "backgroundColor": colour}
                for verdict, colour in _VERDICT_COLOURS.items()
            ],
        }
    )


def _kinds(counts: list[queries.KindCount], now: datetime) -> list[dict[str, Any]]:
    most = max((count.failures for count in counts), default=1)
    since = (now - FAILURES_PERIOD).replace(minute=0, second=0, microsecond=0)
    return [
        {
            "name": count.kind.value.replace("_", " "),
            "severity": count.kind.severity.name.lower(),
            "colour": SEVERITY_COLOURS[count.kind.severity],
            "failures": f"{count.failures:,}",
            "percent": max(1, round(100 * count.failures / most)),
            "url": _failures_url(count.kind, since),
        }
        for count in counts
    ]


def _failures_url(kind: FailureKind, since: datetime) -> str:
    query = {
        "kind__exact": kind.value,
        "received_at_from_0": f"{since:%Y-%m-%d}",
        "received_at_from_1": f"{since:%H:%M:%S}",
    }
    return f"{reverse('admin:concentrators_integrityfailure_changelist')}?{urlencode(query)}"


def _failures_table(failures: list[IntegrityFailure], now: datetime) -> Table:
    return _table(
        [Column("kind"), Column("meter"), Column("concentrator", is_minor=True), Column("received")],
        [
            [
                format_html(
                    '<a href="{}">{}</a>',
                    reverse("admin:concentrators_integrityfailure_change", args=[failure.pk]),
                    _label(failure.kind.replace("_", " "), SEVERITY_COLOURS[Severity(failure.severity)]),
                ),
                "-" if failure.meter is None else _clipped(str(failure.meter)),
                _clipped(str(failure.concentrator)),
                ago(failure.received_at, now),
            ]
            for failure in failures
        ],
    )


def _uplinks_table(rows: list[Uplink], now: datetime) -> Table:
    return _table(
        [
            Column("uplink"),
            Column("concentrator", is_minor=True),
            Column("received"),
            Column("frames", is_number=True),
            Column("accepted", is_number=True),
            Column("duplicate", is_number=True, is_minor=True),
            Column("rejected", is_number=True),
        ],
        [
            [
                _link("admin:concentrators_uplink_change", row.pk, str(row.pk)),
                _clipped(str(row.concentrator)),
                ago(row.received_at, now),
                f"{row.frames:,}",
                *(
                    (f"{row.accepted:,}", f"{row.duplicate:,}", f"{row.rejected:,}")
                    if row.verified_at
                    else (_label("waiting", "warning"), "", "")
                ),
            ]
            for row in rows
        ],
    )


def _label(text: str, colour: str) -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"text": text, "variant": colour, "size": "md"})


def _link(page: str, pk: int, text: str) -> SafeString:
    return format_html(
        '<a class="console-link console-clip" href="{}" title="{}">{}</a>', reverse(page, args=[pk]), text, text
    )


def _clipped(text: str) -> SafeString:
    return format_html('<span class="console-clip" title="{}">{}</span>', text, text)
