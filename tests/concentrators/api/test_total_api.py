"""REST of interval totals: what a page shows, in each form, and sums past int64."""

import io
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.test import Client

from concentrators.models import Concentrator
from meters.models import Meter, Register
from tests.concentrators.fleet import INTERVAL, START, WINDOW, commission, judged

pytestmark = pytest.mark.django_db
LARGEST = 2**63 - 1


@pytest.fixture
def sum_past_int64(concentrator: Concentrator) -> int:
    """Two broken meters, or two compromised ones, are enough."""
    Register.objects.update(maximum=None)
    judged(concentrator, [device.frame(0, LARGEST) for device in commission(2, concentrator)])
    Meter.objects.update(commissioned_at=START)
    return 2 * LARGEST


def asked(client: Client, form: str) -> Any:
    start, end = (time.isoformat() for time in WINDOW)
    return client.get("/api/v1/totals", {"from": start, "to": end, "format": form})


def test_a_sum_past_int64_is_shown(admin_client: Client, concentrator: Concentrator, sum_past_int64: int) -> None:
    page = asked(admin_client, "json").json()
    assert page["next"] is None
    (total,) = page["results"]
    assert total["interval_start"] == f"{START:%Y-%m-%dT%H:%M:%SZ}"
    del total["interval_start"]
    assert total == {
        "concentrator": concentrator.name,
        "obis_code": INTERVAL,
        "interval_minutes": 30,
        "value_sum": sum_past_int64,
        "scaler": 0,
        "unit": "Wh",
        "meters_counted": 2,
        "meters_expected": 2,
        "meters_masked": 0,
    }


def test_a_sum_past_int64_is_exported(admin_client: Client, sum_past_int64: int) -> None:
    csv = b"".join(asked(admin_client, "csv")).decode()
    assert f",30,{sum_past_int64},0," in csv
    table = pq.read_table(io.BytesIO(b"".join(asked(admin_client, "parquet"))))
    assert table["value_sum"].to_pylist() == [Decimal(sum_past_int64)]


def test_a_sum_past_int64_is_on_the_page_of_totals(admin_client: Client, sum_past_int64: int) -> None:
    answer = admin_client.get("/admin/concentrators/concentrator/totals/", {"from": f"{START:%Y-%m-%d %H:%M}"})
    assert answer.status_code == 200
    assert f"{sum_past_int64:,} Wh" in answer.content.decode()


def test_nobody_without_the_right(client: Client, django_user_model: Any) -> None:
    assert asked(client, "json").status_code == 401
    client.force_login(django_user_model.objects.create_user("clerk"))
    assert asked(client, "json").status_code == 403
