"""Costly figures, each of which looks at every row of a large table: kept, and asked anew by the schedule alone."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db.models import Count

from ami_headend.alerts import silence
from ami_headend.core.sql import fetch_rows
from ami_headend.kept import Question
from concentrators.models import WaveMeter, WaveState
from keyvault.device_keys import heard, inventory
from keyvault.master_key import census
from meters.models import Meter, MeterStatus

Figure = list[list[Any]]  # rows of the values of the labels, and the number


def _meters(now: datetime) -> Figure:
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


def _concentrators(now: datetime) -> Figure:
    """Concentrators by whether they are active, and posted: silent ones as the rule of their alert says."""
    found = Counter(
        "inactive" if not one.is_active else "silent" if one.is_silent else "new" if one.is_new else "heard"
        for one in silence.of_concentrators(now)
    )
    return [list(pair) for pair in sorted(found.items())]


def _device_keys(now: datetime) -> Figure:
    """Device keys by state, purpose and source."""
    return [list(row) for row in inventory.by_use()]


def _secrets(now: datetime) -> Figure:
    """Secrets by the master key version that protects them."""
    return [[count.version, count.secrets] for count in census.census()]


def _waves(now: datetime) -> Figure:
    """Meters of the waves under way, by the state of their key command; waiting where there is none yet."""
    rows = WaveMeter.objects.filter(wave__state__in=[WaveState.RUNNING, WaveState.PAUSED, WaveState.STOPPED])
    counted = rows.values_list("wave", "wave__name", "command__state").annotate(number=Count("pk")).order_by()
    return [[wave, name, state or "waiting", number] for wave, name, state, number in counted]


_FIGURES: dict[str, Callable[[datetime], Figure]] = {
    "meters": _meters,
    "concentrators": _concentrators,
    "device_keys": _device_keys,
    "secrets": _secrets,
    "waves": _waves,
}
QUESTIONS = {name: Question(f"metric {name}", ask, list[list[Any]]) for name, ask in _FIGURES.items()}
