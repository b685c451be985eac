"""Readings around two old months, and what everything that reads readings says of them."""

from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

from django.utils import timezone

from meters.group_models import FleetGroup, MeterInGroup, Via
from meters.models import Meter, Reading, Register
from meters.readings import export, last_values, partitions, queries
from meters.readings.gaps import gap_report
from meters.readings.obis import LOAD_PROFILE
from meters.readings.queries import ReadingSelection
from tests.factories import MeterFactory

NOW = timezone.now().astimezone(UTC)
LATER = partitions.month_start(partitions.month_start(NOW) - timedelta(days=420))  # the younger of the two months
MONTH = partitions.month_start(LATER - timedelta(days=1))
HOUR = timedelta(hours=1)
START, END = MONTH - 2 * HOUR, partitions.month_after(LATER) + 3 * HOUR


def stored() -> list[Meter]:
    """Two meters with readings around the ends of the two months, and within the first."""
    meters = MeterFactory.create_batch(2, interval_minutes=60, commissioned_at=START - HOUR)
    times = [START + n * HOUR for n in range(5)] + [LATER - 2 * HOUR + n * HOUR for n in range(6)]
    times += [END - n * HOUR for n in range(1, 6)]
    codes = [LOAD_PROFILE, "1-0:1.8.0", "1-0:32.7.0"]
    Reading.objects.bulk_create(
        Reading(
            captured_at=at,
            meter=meter,
            register=Register.objects.get(obis_code=code),
            value=1000 * number + 7 * row - 3 * (code == "1-0:32.7.0") * 10**9,
            uplink_id=2**40 + row,
            interval_minutes=60 if code == LOAD_PROFILE else 0,
            scheme=None if row % 3 else 2,
        )
        for number, meter in enumerate(meters)
        for code in codes
        for row, at in enumerate(sorted(set(times)))
    )
    return meters


def as_csv(selection: ReadingSelection) -> bytes:
    return b"".join(export.stream_csv(export.READING_SCHEMA, queries.batches(queries.readings, selection, 20_000)))


def answers(meters: list[Meter]) -> dict[str, Any]:
    """What everything that reads readings says."""
    profile = Register.objects.get(obis_code=LOAD_PROFILE)
    whole = ReadingSelection(START, END)
    group, _ = FleetGroup.objects.get_or_create(kind="district", name="North")
    MeterInGroup.objects.get_or_create(group=group, meter=meters[1], via=Via.METER)
    chosen = {
        "all": whole,
        "of a meter": replace(whole, meter_ids=[meters[0].pk]),
        "of a register": replace(whole, register_ids=[profile.pk]),
        "of a group": replace(whole, group_ids=[group.pk]),
        "within the month": ReadingSelection(MONTH + HOUR, LATER - HOUR, [meters[1].pk], [profile.pk]),
        "of nobody": replace(whole, meter_ids=[]),
    }
    said: dict[str, Any] = {}
    for name, selection in chosen.items():
        said[f"{name}, CSV"] = as_csv(selection)
        said[f"{name}, pages"] = list(queries.batches(queries.readings_page, selection, 13))
        said[f"{name}, by ids"] = list(queries.batches(queries.stored_readings, selection, 17))
        said[f"{name}, number"] = queries.count(selection, 1000), queries.count(selection, 3)
    said["load profile"] = queries.load_curve(meters[0].pk, profile.pk, START, END)
    said["gaps"] = gap_report(meters[0], profile, START, END, NOW)
    said["last values"] = last_values.last_values(meters[0].pk, LATER - HOUR, MONTH - 3 * HOUR)
    return said
