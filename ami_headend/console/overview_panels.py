"""The panels of the overview: figures, charts and tables that the user may see."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode

from ami_headend.alerts import silence
from ami_headend.cached_answers import KeptResult
from ami_headend.console import charts, traffic_queries
from ami_headend.console.charts import Chart, Series
from ami_headend.console.failures import failures_url, groups_table
from ami_headend.console.figures import Figure
from ami_headend.console.fleet_queries import (
    DAY,
    METERS_HEARD,
    OUTAGES,
    PROFILE_PERIOD,
    PROFILES,
    ROWS,
    SCHEMES_IN_USE,
    MetersHeard,
    OutageStanding,
    Profiles,
)
from ami_headend.console.formatting import (
    COMPLETE,
    SEVERITY_COLOURS,
    ago,
    clipped,
    completeness_tone,
    duration,
    kind_label,
    label,
    link,
    percent,
    power,
    protection,
    thousands,
)
from ami_headend.console.meters import meters_url
from ami_headend.console.periods import as_filters
from ami_headend.console.registry_queries import TRAFFIC
from ami_headend.console.rotation_queries import OPEN_WAVES, WaveRow
from ami_headend.console.traffic_queries import FAILURES_BY_KIND, VERDICTS, KindCount, VerdictHour
from ami_headend.core import clock
from ami_headend.core.text import counted
from ami_headend.web.tables import columns_of, table
from concentrators.failures import queries
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureSelection
from concentrators.ingest import backlog
from concentrators.models import WaveState
from keyvault.device_keys import last_heard
from keyvault.models import MasterKeyRotation, RotationState
from keyvault.schemes.table import CONCENTRATOR, SCHEMES, USUAL

QUESTIONS = (METERS_HEARD, OUTAGES, SCHEMES_IN_USE, PROFILES, VERDICTS, FAILURES_BY_KIND, OPEN_WAVES, TRAFFIC)

_HOUR = timedelta(hours=1)

Panel = dict[str, Any]


def profiles(found: Profiles) -> Panel:
    """Return completeness in figures and by hour, and the load curve."""
    url = _totals_url(found.end - DAY)
    return {
        "figures": [
            _completeness("Completeness, 24 hours", found, DAY, url),
            _completeness("Completeness, 7 days", found, PROFILE_PERIOD, _totals_url(found.end - PROFILE_PERIOD)),
        ],
        "completeness": _completeness_chart(found),
        "load": _load_chart(found),
        "totals_url": url,
    }


def meters(found: MetersHeard, now: datetime) -> Panel:
    """Return the number of active meters, and those that have been silent the longest."""
    url = meters_url(health="silent")
    note = f"last 24 hours; {found.never:,} never" if found.never else "last 24 hours"
    tone = completeness_tone(found.heard, found.expected)
    rows = [
        [
            link(reverse("admin:meter", args=[meter.id]), meter.serial_number),
            ago(meter.heard_at, now),
            clipped(meter.via or "-"),
        ]
        for meter in found.silent
        if not clock.is_within(meter.heard_at, last_heard.PERIOD, now)
    ]
    return {
        "figures": [Figure("Active meters", f"{found.heard:,} of {found.expected:,}", note, "sensors", url, tone)],
        "silent": table(columns_of("meter", "last frame", "-through"), rows),
        "silent_empty": "Every meter sent a frame in the last 24 hours."
        if found.expected
        else "No meter is registered yet: manage.py import_meters imports a list.",
        "meters_url": url,
    }


def outages(found: OutageStanding, now: datetime) -> Panel:
    """Return how many meters have no power."""
    hubs, since = f"at {counted(found.concentrators, 'concentrator')}", ago(found.since, now)
    out = format_html("{}, since {}", hubs, since) if found.out else "none is out"
    note = format_html("{}; {} back within a day", out, f"{found.back:,}") if found.back else out
    url = reverse("admin:outages")
    return {"figures": [Figure("Without power", thousands(found.out), note, "power_off", url, "bad" * bool(found.out))]}


def schemes(found: Mapping[str, int]) -> Panel:
    """Return meters by the scheme that protects their readings; nothing if all of them have the usual one."""
    counts = {name: number for name, number in found.items() if name != CONCENTRATOR}
    if not counts.keys() - {USUAL}:
        return {}
    all_meters = sum(counts.values())
    return {
        "schemes": [
            {
                "label": protection(line.name, line.caveat),
                "meters": counts[line.name],
                "all": all_meters,
                "share": percent(counts[line.name], all_meters),
                "colour": "warning" if line.caveat else "info",
                "url": meters_url(scheme=line.name),
            }
            for line in SCHEMES
            if line.name in counts
        ]
    }


def concentrators(found: Profiles | None, now: datetime) -> Panel:
    """Return concentrators: silent ones first, then those whose readings lag behind."""
    shares = {} if found is None else {share.concentrator_id: share for share in found.shares[:ROWS]}
    active = [one for one in silence.of_concentrators(now) if one.is_active]
    silent = sorted((one for one in active if one.is_silent), key=lambda one: (one.known_since, one.id))
    others = {one.id: one for one in active if not one.is_silent}
    new, missed = sum(one.is_new for one in active), len(silent)
    lagging = [others[one] for one in shares if one in others]
    rows = []
    short = sum(shares[row.id].counted < COMPLETE * shares[row.id].expected for row in lagging)
    silent = silent[: max(ROWS // 2, ROWS - short)]  # leaves room for lagging ones if many are silent
    for row in [*silent, *lagging][:ROWS]:
        share = shares.get(row.id)
        part = None if share is None else share.counted / share.expected
        state = ("silent", "danger") if row in silent else ("well", "success") if row.posted_at else ("new", "")
        if state[0] == "well" and part is not None and part < COMPLETE:
            state = ("lagging", "warning")
        rows.append(
            [
                link(reverse("admin:concentrator", args=[row.id]), row.name),
                label(*state),
                ago(row.posted_at, now),
                "-" if share is None else percent(share.counted, share.expected),
                "-" if share is None else ago(share.newest, now),
                thousands(row.waiting),
            ]
        )
    after = duration(silence.silent_after().total_seconds())
    note = f"{missed:,} silent for over {after}" if missed else "none silent"
    if new:
        note += f", {new:,} never posted yet"
    url = reverse("admin:concentrators")
    tone = "bad" if missed else "good" if active else ""
    columns = columns_of("concentrator", "state", "-last post", "#24 h", "-newest reading", "-#waiting")
    value = f"{len(active) - missed - new:,} of {len(active):,}"
    return {
        "figures": [Figure("Concentrators posting", value, note, "router", url, tone)],
        "concentrators": table(columns, rows),
        "concentrators_url": url,
    }


def traffic(found: list[VerdictHour], now: datetime) -> Panel:
    """Return frames by verdict, and the queue."""
    verified, rejected = sum(hour.verified for hour in found), sum(hour.rejected for hour in found)
    url = reverse("admin:concentrators_uplink_changelist")
    queue, lag_s = backlog.waiting(), traffic_queries.lag_s()
    if queue.oldest_received_at is not None:
        note = f"the oldest for {duration((now - queue.oldest_received_at).total_seconds())}"
    elif lag_s is None:
        note = "nothing has been posted yet"
    else:
        note = f"verified {lag_s:,.1f} s after reception"
    refused = f"{percent(rejected, verified)} of {verified:,} in 24 hours" if verified else "no frame in 24 hours"
    return {
        "figures": [
            Figure("Frames rejected", thousands(rejected), refused, "gpp_bad", failures_url()),
            Figure("Uplinks waiting", thousands(queue.uplinks), note, "hourglass_empty", url),
        ],
        "verdicts": _verdicts_chart(found),
        "uplinks_url": url,
    }


def failures(counts: list[KindCount], now: datetime) -> Panel:
    """Return failures by kind, and signs of tampering."""
    since = as_filters(traffic_queries.a_day_before(now))
    severity = {count.kind: FailureKind(count.kind).severity for count in counts}
    signs = sum(count.failures for count in counts if severity[count.kind] == Severity.CRITICAL)
    most = max((count.failures for count in counts), default=1)
    url = failures_url(severity=Severity.CRITICAL.name.lower(), **since)
    note = "forged or copied frames, 24 h"
    return {
        "figures": [
            Figure("Signs of tampering", thousands(signs), note, "policy_alert", url, "bad" if signs else "good")
        ],
        "kinds": [
            {
                "label": kind_label(count.kind),
                "failures": thousands(count.failures),
                "colour": SEVERITY_COLOURS[severity[count.kind]],
                "percent": max(1, round(100 * count.failures / most)),
                "url": failures_url(kind=count.kind, **since),
            }
            for count in counts
        ],
    }


def latest_failures(now: datetime) -> Panel:
    """Return the latest failures by meter and kind, so that a flood of one kind is one row."""
    rows, _ = queries.failure_groups(FailureSelection(), ROWS)
    return {"failures": groups_table(rows, now), "failures_url": reverse("admin:failure-groups")}


class RotationBar(NamedTuple):
    """A rotation in progress, and the link to its page."""

    title: str
    note: str
    done: int
    whole: int
    url: str
    tone: str = ""

    @property
    def share(self) -> str:
        return percent(self.done, self.whole)


def rotation(found: list[WaveRow], master: MasterKeyRotation | None) -> Panel:
    """Return rotations in progress: of device keys and, if given, of the master key."""
    bars = [_wave(wave) for wave in found]
    if master is not None:
        bars.insert(0, _master_key(master))
    stuck = [bar for bar in bars if bar.tone]
    value = percent(sum(bar.done for bar in bars), sum(bar.whole for bar in bars)) if bars else "-"
    note = f"{len(stuck):,} stopped or paused" if stuck else f"{len(bars):,} under way" if bars else "none in progress"
    url = reverse("admin:waves")
    return {
        "figures": [Figure("Key rotation", value, note, "autorenew", url, "unsure" if stuck else "")],
        "rotations": bars,
        "waves_url": url,
    }


def _wave(wave: WaveRow) -> RotationBar:
    note = f"{wave.state}, {thousands(wave.done)} of {counted(wave.meters, 'meter')}, {thousands(wave.open)} on the way"
    if wave.failures:
        note += f", {thousands(wave.failures)} of {counted(wave.failure_budget, 'failure')} used"
    tone = "" if wave.state == WaveState.RUNNING else "warning"
    return RotationBar(wave.name, note, wave.done, wave.meters, reverse("admin:wave", args=[wave.id]), tone)


def _master_key(standing: MasterKeyRotation) -> RotationBar:
    done = standing.rewrapped + standing.unreadable
    note = f"{standing.state}, {thousands(done)} of {counted(standing.total, 'secret')} rewrapped"
    tone = "" if standing.state == RotationState.RUNNING else "warning"
    title = f"Master key to version {standing.to_version}"
    return RotationBar(title, note, done, max(1, standing.total), reverse("admin:master-key"), tone)


def counted_at(answers: Mapping[str, KeptResult], now: datetime) -> datetime | None:
    """Return the time of the oldest cached answer; None if it is so recent that nobody needs to know."""
    oldest = min((answer.taken_at for answer in answers.values()), default=now)
    return None if clock.is_within(oldest, timedelta(seconds=15), now) else oldest


def _completeness(title: str, found: Profiles, period: timedelta, url: str) -> Figure:
    there, expected = found.over(period)
    if not expected:
        return Figure(title, "-", "no intervals are expected yet", "fact_check", url)
    missing = expected - there
    note = f"{missing:,} of {counted(expected, 'interval')} missing" if missing else f"all {expected:,} intervals"
    return Figure(title, percent(there, expected), note, "fact_check", url, completeness_tone(there, expected))


def _completeness_chart(found: Profiles) -> Chart:
    hours = [hour for hour in found.hours if hour.start < found.end]
    shares = [100 * hour.counted / hour.expected if hour.expected else None for hour in hours]
    least = min((share for share in shares if share is not None), default=0)
    return charts.lines(
        "completeness",
        "Share of expected intervals that were received, by hour, over seven days",
        [_hour_label(hour.start, "%a %H:%M") for hour in hours],
        [Series("complete", [None if share is None else round(share, 2) for share in shares], charts.GOOD)],
        "%",
        scale=(max(0, least // 10 * 10 - 10), 100),
    )


def _load_chart(found: Profiles) -> Chart:
    """Return the average power by hour: the last 24 hours, and the 24 before them at the same hours."""
    last = [hour for hour in found.hours if hour.start < found.end][-48:]
    watts = [hour.energy_wh if hour.expected and hour.counted >= hour.expected / 2 else None for hour in last]
    unit, divisor = charts.unit_for(watts, "W")
    values = [None if value is None else round(value / divisor, 3) for value in watts]
    before, after = values[:24], values[24:]
    now_w = next((value for value in reversed(watts) if value is not None), None)
    return charts.lines(
        "load",
        f"Average power of all meters by hour; latest {power(now_w)}",
        [_hour_label(hour.start, "%H:%M") for hour in last[24:]],
        [Series("last 24 hours", after, charts.PLAIN), Series("the 24 hours before", before, charts.FAINT)],
        unit,
    )


def _verdicts_chart(found: Sequence[VerdictHour]) -> Chart:
    return charts.bars(
        "verdicts",
        "Frames verified per hour, by verdict, over 24 hours",
        [_hour_label(hour.start, "%H:%M") for hour in found],
        [
            Series("accepted", [hour.accepted for hour in found], charts.GOOD),
            Series("duplicate", [hour.duplicate for hour in found], charts.UNSURE),
            Series("refused", [hour.rejected for hour in found], charts.BAD),
        ],
        "frames",
    )


def _hour_label(start: datetime, form: str) -> str:
    return f"{timezone.localtime(start):{form}}"


def _totals_url(start: datetime) -> str:
    return f"{reverse('admin:interval_totals')}?{urlencode(as_filters(start))}"
