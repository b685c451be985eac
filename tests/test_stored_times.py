"""Times of year 1 and 9999 that were stored before doors refused them: no page, address or export fails at one."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from django.db.models import DateTimeField
from django.test import Client
from django.urls import reverse

from tests import test_doors
from tests.test_doors import arguments, rows

__all__ = ["rows"]
pytestmark = pytest.mark.django_db

OURS = {"concentrators", "meters", "keyvault", "alerts", "signin", "api_tokens", "siem", "ami_headend"}
FIRST, LAST = "0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00"
# Zones in which the first, or the last, is no date of Python's any more.
ZONES = {FIRST: "America/Los_Angeles", LAST: "Pacific/Kiritimati"}
# Among them: what the doors took before.
SPOILT = {
    "alerts_alert.snoozed_until",
    "concentrators_assignment.valid_from",
    "concentrators_concentratortoken.expires_at",
    "meters_installation.installed_at",
    "meters_meter.commissioned_at",
    "meters_meterevent.captured_at",
}


def spoil(time: str) -> set[str]:
    """Writes the time into every column that takes it, each by itself; gives the columns, as table.column."""
    spoilt = set()
    for model in apps.get_models():
        if model._meta.app_label not in OURS:
            continue
        for field in model._meta.local_fields:
            if isinstance(field, DateTimeField) and model._meta.managed:
                quoted = connection.ops.quote_name
                try:
                    with transaction.atomic(), connection.cursor() as cursor:
                        cursor.execute(
                            f"UPDATE {quoted(model._meta.db_table)} SET {quoted(str(field.column))} = %s", [time]
                        )
                        if cursor.rowcount:
                            spoilt.add(f"{model._meta.db_table}.{field.column}")
                except DatabaseError:
                    continue  # a period that would end before it begins, a month without a partition
    return spoilt


@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.soak)], ids=["in turn", "every address"])
@pytest.mark.parametrize("time", [FIRST, LAST], ids=["year 1", "year 9999"])
@pytest.mark.usefixtures("rows")
def test_no_address_fails_at_a_stored_time(time: str, step: int) -> None:
    asked = []
    for number, door in enumerate(test_doors.doors()):
        if door.method == "get" and number % step == (time == LAST) % step:
            address = reverse(door.name, args=arguments(door))
            # Of the console, downloads have doors of their own.
            asked += [address] if door.name.startswith("admin:") else [address, f"{address}?format=csv"]
    spoilt = spoil(time)
    assert not SPOILT - spoilt
    assert len(spoilt) > 60
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root"))
    client.cookies["zone"] = ZONES[time].replace("/", "%2F")
    wrong = []
    for address in dict.fromkeys(asked):
        answer: Any = client.get(address)
        if answer.streaming:
            b"".join(answer.streaming_content)  # an export that fails half-way raises here
        if answer.status_code >= 500:
            wrong.append(f"{address}: {answer.status_code} {answer.exc_info}")
    assert not wrong, "\n".join(wrong)
