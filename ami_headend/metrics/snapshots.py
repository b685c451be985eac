"""Costly figures: each looks at every row of a large table, and rests twenty times as long as it took.

A worker takes them; whoever is asked for metrics reads what stands.
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count

from ami_headend.alerts import silence
from ami_headend.core import clock
from ami_headend.core.sql import fetch_rows
from ami_headend.metrics.models import Snapshot
from concentrators.models import WaveMeter, WaveState
from keyvault.device_keys import heard
from keyvault.master_key import census
from meters.models import Meter, MeterStatus

_RESTS, _REST_MIN = 20, timedelta(seconds=55)  # the schedule comes each minute


def take(now: datetime) -> list[str]:
    """Take those that have rested; gives their names."""
    standing = Snapshot.objects.in_bulk()
    taken = []
    for name, figure in FIGURES.items():
        before = standing.get(name)
        if before is not None:
            rest = max(_REST_MIN, timedelta(milliseconds=_RESTS * before.took_ms))
            if not clock.has_rested(before.taken_at, rest, now):
                continue
        started = time.monotonic()
        value = figure(now)
        took_ms = round(1000 * (time.monotonic() - started))
        Snapshot.objects.update_or_create(name=name, defaults={"taken_at": now, "took_ms": took_ms, "value": value})
        taken.append(name)
    return taken


def _meters(now: datetime) -> list[list[Any]]:
    """Meters by state; those in service apart by whether they were heard."""
    counts = dict(Meter.objects.values_list("status").annotate(number=Count("pk")).order_by("status"))
    in_service = counts.pop(MeterStatus.COMMISSIONED, 0)
    (heard_lately,) = fetch_rows(
        f"SELECT count(*) FROM meters_meter m WHERE status = %s AND {heard.SINCE.format(title='m.system_title')}",
        MeterStatus.COMMISSIONED.value,
        now - heard.PERIOD,
    )[0]
    of_service = [["commissioned, heard", heard_lately], ["commissioned, silent", in_service - heard_lately]]
    return [*of_service, *map(list, counts.items())]


def _concentrators(now: datetime) -> list[list[Any]]:
    """Concentrators by whether they are active, and posted: silent ones as the rule of their alert says."""
    found = Counter(
        "inactive" if not one.is_active else "silent" if one.is_silent else "new" if one.is_new else "heard"
        for one in silence.of_concentrators(now)
    )
    return [list(pair) for pair in sorted(found.items())]


def _device_keys(now: datetime) -> list[list[Any]]:
    """Device keys by state, purpose and source."""
    return [
        list(row)
        for row in fetch_rows(
            """SELECT state, CASE WHEN epoch = 0 THEN 'transfer' ELSE 'frames' END AS purpose, source, count(*)
               FROM keyvault_devicekey GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
        )
    ]


def _secrets(now: datetime) -> list[list[Any]]:
    """Secrets by the master key version that protects them."""
    return [[count.version, count.secrets] for count in census.census()]


def _waves(now: datetime) -> list[list[Any]]:
    """Meters of the waves under way, by the state of their key command; waiting where there is none yet."""
    rows = WaveMeter.objects.filter(wave__state__in=[WaveState.RUNNING, WaveState.PAUSED, WaveState.STOPPED])
    counted = rows.values_list("wave", "wave__name", "command__state").annotate(number=Count("pk")).order_by()
    return [[wave, name, state or "waiting", number] for wave, name, state, number in counted]


FIGURES: dict[str, Callable[[datetime], list[list[Any]]]] = {
    "meters": _meters,
    "concentrators": _concentrators,
    "device_keys": _device_keys,
    "secrets": _secrets,
    "waves": _waves,
}
