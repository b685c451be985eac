"""The viewer's zone: for pages of the console alone, and never an error."""

from urllib.parse import quote

import pytest
from django.test import Client
from django.urls import reverse

from ami_headend.console.zone import zone_of

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", ["", "Mars/Base", "../../etc/passwd", "/etc/passwd", "a\x00b", "x" * 10_000, "Europe"])
def test_what_is_no_zone_is_none(name: str, admin_client: Client) -> None:
    assert zone_of(name) is None
    admin_client.cookies["zone"] = quote(name, safe="")
    assert "UTC" in admin_client.get(reverse("admin:index")).content.decode()


def test_a_page_is_in_the_viewers_zone(admin_client: Client) -> None:
    admin_client.cookies["zone"] = quote("Asia/Kolkata", safe="")
    assert "Asia/Kolkata (UTC+05:30)" in admin_client.get(reverse("admin:index")).content.decode()


def test_the_api_stays_in_utc(admin_client: Client) -> None:
    admin_client.cookies["zone"] = quote("Asia/Kolkata", safe="")
    text = admin_client.get("/api/v1/readings?start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z").content.decode()
    assert "+05:30" not in text
