"""Costly figures, each over every row of a large table: they are cached, and only the schedule renews them."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db.models import Count

from ami_headend.alerts import silence
from ami_headend.cached_answers import Question
from ami_headend.core.sql import fetch_rows
from concentrators.models import WaveMeter, WaveState
from keyvault.coupons import inventory as coupons
from keyvault.device_keys import inventory, last_heard, schemes_in_use
from keyvault.master_key import census
from meters.models import Meter, MeterStatus

Figure = list[list[Any]]  # rows of label values and the number


def _meters(now: datetime) -> Figure:
    """Count meters by state; those in service are split by whether a frame came lately."""
    counts = dict(Meter.objects.values_list("status").annotate(number=Count("pk")).order_by("status"))
    in_service = counts.pop(MeterStatus.COMMISSIONED, 0)
    (heard_lately,) = fetch_rows(
        f"SELECT count(*) FROM meters_meter m WHERE status = %s AND {last_heard.SINCE.format(title='m.system_title')}",
        MeterStatus.COMMISSIONED.value,
        now - last_heard.PERIOD,
    )[0]
    of_service = [["commissioned, heard", heard_lately], ["commissioned, silent", in_service - heard_lately]]
    return [*of_service, *map(list, counts.items())]


def _concentrators(now: datetime) -> Figure:
    """Count concentrators by state: inactive, silent by the rule of the alert, new, or heard."""
    found = Counter(
        "inactive" if not one.is_active else "silent" if one.is_silent else "new" if one.is_new else "heard"
        for one in silence.of_concentrators(now)
    )
    return [list(pair) for pair in sorted(found.items())]


def _device_keys(now: datetime) -> Figure:
    """Count device keys by state, purpose and source."""
    return [list(row) for row in inventory.by_use()]


def _schemes(now: datetime) -> Figure:
    """Count devices by the scheme of their active key."""
    return [list(pair) for pair in schemes_in_use.counts().items()]


def _coupons(now: datetime) -> Figure:
    """Count meters that sign by the coupons that they have left, as announced."""
    return [list(pair) for pair in coupons.meters_by_coupons_left().items()]


def _secrets(now: datetime) -> Figure:
    """Count secrets by the master key version that wraps them."""
    return [[count.version, count.secrets] for count in census.census()]


def _waves(now: datetime) -> Figure:
    """Count meters of open waves by the state of their key command; waiting if there is none yet."""
    rows = WaveMeter.objects.filter(wave__state__in=[WaveState.RUNNING, WaveState.PAUSED, WaveState.STOPPED])
    counted = rows.values_list("wave", "wave__name", "command__state").annotate(number=Count("pk")).order_by()
    return [[wave, name, state or "waiting", number] for wave, name, state, number in counted]


_FIGURES: dict[str, Callable[[datetime], Figure]] = {
    "meters": _meters,
    "concentrators": _concentrators,
    "device_keys": _device_keys,
    "schemes": _schemes,
    "coupons": _coupons,
    "secrets": _secrets,
    "waves": _waves,
}
QUESTIONS = {name: Question(f"metric {name}", ask, list[list[Any]]) for name, ask in _FIGURES.items()}
