"""The sections of the overview: what a user may see of the present state, ready for the template."""

from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from ami_headend.console import charts, queries
from ami_headend.console.charts import Chart, Series
from ami_headend.console.failures import failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import SEVERITY_COLOURS, ago, clipped, kind_label, label, link, percent, thousands
from ami_headend.console.tables import Column, Table, table
from concentrators import uplinks
from concentrators.models import IntegrityFailure, Uplink

CHART_MINUTES = 30
FAILURES_PERIOD = timedelta(hours=24)
HEARD_PERIOD = timedelta(hours=24)
POSTED_PERIOD = timedelta(hours=1)
ROWS = 8

_VERDICT_COLOURS = {"accepted": charts.GOOD, "duplicate": charts.UNSURE, "rejected": charts.BAD}


def status(user: Any, now: datetime) -> dict[str, Any]:
    """The sections that the user may see; each asks a fixed number of statements."""
    sections: dict[str, Any] = {"figures": []}
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
        sections["failures_url"] = failures_url()
    return sections


def _add_traffic(sections: dict[str, Any], now: datetime) -> None:
    minutes = queries.frames_by_minute(now, CHART_MINUTES)
    totals = {verdict: sum(getattr(minute, verdict) for minute in minutes) for verdict in _VERDICT_COLOURS}
    verified = sum(totals.values())
    backlog = uplinks.backlog()
    period = f"last {CHART_MINUTES} minutes"
    sections["figures"] += [
        Figure("Frames verified", thousands(verified), period, "verified"),
        Figure("Rate", f"{_rate(minutes):,.1f} /s", "last full minute", "speed"),
        Figure("Accepted", thousands(totals["accepted"]), percent(totals["accepted"], verified), "task_alt"),
        Figure("Duplicate", thousands(totals["duplicate"]), percent(totals["duplicate"], verified), "content_copy"),
        Figure("Rejected", thousands(totals["rejected"]), percent(totals["rejected"], verified), "gpp_bad"),
        Figure("Uplinks waiting", thousands(backlog.uplinks), _lag(backlog.oldest_received_at, now), "hourglass_empty"),
    ]
    sections["chart"] = _chart(minutes)
    sections["uplinks"] = _uplinks_table(queries.latest_uplinks(ROWS), now)
    sections["uplinks_url"] = reverse("admin:concentrators_uplink_changelist")


def _add_meters(sections: dict[str, Any], now: datetime) -> None:
    heard = queries.meters_heard(now, HEARD_PERIOD, ROWS)
    note = f"last 24 hours; {heard.never:,} never" if heard.never else "last 24 hours"
    sections["figures"].append(Figure("Meters heard", f"{heard.heard:,} of {heard.expected:,}", note, "sensors"))
    sections["silent"] = table(
        [Column("meter"), Column("last heard"), Column("through", is_minor=True)],
        [
            [
                link(reverse("admin:meters_meter_change", args=[meter.id]), meter.serial_number),
                ago(meter.heard_at, now),
                clipped(meter.via or "-"),
            ]
            for meter in heard.silent
        ],
    )
    sections["meters_url"] = reverse("admin:meters_meter_changelist")


def _add_concentrators(sections: dict[str, Any], now: datetime) -> None:
    active, posting, rows = queries.concentrators(now, POSTED_PERIOD, ROWS)
    sections["figures"].append(
        Figure("Concentrators posting", f"{posting:,} of {active:,}", "last hour", "settings_input_antenna")
    )
    sections["concentrators"] = table(
        [
            Column("concentrator"),
            Column("last heard"),
            Column("uplinks", is_number=True, is_minor=True),
            Column("frames", is_number=True),
            Column("rejected", is_number=True),
        ],
        [
            [
                link(reverse("admin:concentrators_concentrator_change", args=[row.id]), row.name),
                ago(row.heard_at, now),
                thousands(row.uplinks),
                thousands(row.frames),
                thousands(row.rejected),
            ]
            for row in rows
        ],
    )
    sections["concentrators_url"] = reverse("admin:concentrators_concentrator_changelist")


def _rate(minutes: list[queries.Minute]) -> float:
    """Frames per second in the last minute that is over."""
    return float(sum(minutes[-2][1:])) / 60


def _lag(oldest: datetime | None, now: datetime) -> str:
    return "nothing waits" if oldest is None else f"oldest for {max(0.0, (now - oldest).total_seconds()):,.1f} s"


def _chart(minutes: list[queries.Minute]) -> Chart:
    return charts.bars(
        "verdicts",
        "Frames verified per minute, by verdict",
        [f"{timezone.localtime(minute.start):%H:%M}" for minute in minutes],
        [
            Series(verdict, [int(getattr(minute, verdict)) for minute in minutes], colour)
            for verdict, colour in _VERDICT_COLOURS.items()
        ],
        "frames",
    )


def _kinds(counts: list[queries.KindCount], now: datetime) -> list[dict[str, Any]]:
    most = max((count.failures for count in counts), default=1)
    since = (now - FAILURES_PERIOD).replace(minute=0, second=0, microsecond=0)
    return [
        {
            "name": count.kind.value.replace("_", " "),
            "severity": count.kind.severity.name.lower(),
            "colour": SEVERITY_COLOURS[count.kind.severity],
            "failures": thousands(count.failures),
            "percent": max(1, round(100 * count.failures / most)),
            "url": failures_url(kind=count.kind.value, start=f"{timezone.localtime(since):%Y-%m-%dT%H:%M:%S}"),
        }
        for count in counts
    ]


def _failures_table(failures: list[IntegrityFailure], now: datetime) -> Table:
    return table(
        [Column("kind"), Column("meter"), Column("concentrator", is_minor=True), Column("received")],
        [
            [
                format_html(
                    '<a href="{}">{}</a>',
                    reverse("admin:failure", args=[failure.pk]),
                    kind_label(failure.kind),
                ),
                "-" if failure.meter is None else clipped(str(failure.meter)),
                clipped(str(failure.concentrator)),
                ago(failure.received_at, now),
            ]
            for failure in failures
        ],
    )


def _uplinks_table(rows: list[Uplink], now: datetime) -> Table:
    return table(
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
                link(reverse("admin:concentrators_uplink_change", args=[row.pk]), row.pk),
                clipped(str(row.concentrator)),
                ago(row.received_at, now),
                thousands(row.frames),
                *(
                    (thousands(row.accepted), thousands(row.duplicate), thousands(row.rejected))
                    if row.verified_at
                    else (label("waiting", "warning"), "", "")
                ),
            ]
            for row in rows
        ],
    )
