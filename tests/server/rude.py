"""Requests of which half is sent, people who are signed in, and an export that is larger than any buffer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
from django.contrib.auth.models import User
from django.db import connection

from tests.flows.site import CBOR_SEQUENCE, Site
from tests.flows.stack import Stack
from tests.server.clients import head

PASSWORD = "a long password"
ROWS = 120_000  # more than any buffer of a socket holds


@contextmanager
def signed_in(stack: Stack) -> Iterator[httpx.Client]:
    """A browser of a superuser."""
    name = f"root-{time.monotonic_ns()}"
    User.objects.create_superuser(name, password=PASSWORD)
    with httpx.Client(base_url=stack.base_url, timeout=30) as client:
        client.get("/admin/login/")
        form = {"username": name, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/", data=form).status_code == 302
        yield client


def cookies_of(browser: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in browser.cookies.items())


def many_readings(site: Site) -> str:
    """Readings of one meter; gives the address that exports them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
               SELECT to_timestamp(%s + n), n, 0, %s, (SELECT min(id) FROM meters_register), 0
               FROM generate_series(1, %s) AS n""",
            [int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()), site.devices[0].meter.pk, ROWS],
        )
    return "/api/v1/readings?format=csv&from=2026-11-01T00:00:00Z&to=2026-11-05T00:00:00Z"


def half_sign_in() -> bytes:
    token = "a" * 32
    return (
        head(
            "POST",
            "/admin/login/",
            Cookie=f"csrftoken={token}",
            Content_Type="application/x-www-form-urlencoded",
            Content_Length="3000",
        )
        + b"abc"
    )


def half_uplink(site: Site) -> bytes:
    authorization = f"Bearer {site.token}"
    return (
        head(
            "POST",
            "/api/v1/uplinks",
            Authorization=authorization,
            Content_Type=CBOR_SEQUENCE,
            Content_Length="3000",
        )
        + b"\x41"
    )
