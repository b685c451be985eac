"""What a browser may load and run: strict on the console, nothing at all on what is data."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from ami_headend.console import navigation

pytestmark = pytest.mark.django_db

PAGES = [
    "/admin/login/",
    *(reverse(p.url_name) for _, pages in navigation.GROUPS for p in pages if p.url_name != "docs"),
]


def policy(client: Client, address: str) -> dict[str, str]:
    header = client.get(address)["Content-Security-Policy"]
    return dict(part.strip().partition(" ")[::2] for part in header.split(";"))


@pytest.mark.parametrize("address", PAGES)
def test_no_page_holds_a_script_or_style_of_its_own(address: str, admin_client: Client) -> None:
    page = admin_client.get(address, follow=address == "/admin/login/").content.decode()
    assert not re.findall(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>", page)
    assert "<style" not in page
    assert not re.findall(r"""\son[a-z]+=["']""", page)
    assert "javascript:" not in page


def test_the_console_runs_its_own_scripts_alone(admin_client: Client) -> None:
    found = policy(admin_client, "/admin/")
    assert found["default-src"] == "'none'"
    assert found["script-src"] == "'self' 'unsafe-eval'"
    assert found["style-src"] == found["font-src"] == found["connect-src"] == found["form-action"] == "'self'"
    assert found["frame-ancestors"] == found["base-uri"] == "'none'"


@pytest.mark.parametrize("address", ["/api/v1/meters", "/api/schema/", "/health/live", "/api/nothing"])
def test_data_loads_nothing(client: Client, address: str) -> None:
    found = policy(client, address)
    assert found == dict.fromkeys(("default-src", "frame-ancestors", "form-action", "base-uri"), "'none'")


def test_the_documents_of_the_api_run_no_code_from_strings(client: Client) -> None:
    assert policy(client, "/api/docs/")["script-src"] == "'self'"
    assert "<script>" not in client.get("/api/docs/").content.decode()


def test_the_colours_of_the_theme_are_a_stylesheet(client: Client) -> None:
    answer = client.get(reverse("admin:colours"))
    assert answer["Content-Type"] == "text/css"
    assert "--color-primary-600: oklch(54.6%" in answer.content.decode()
    assert reverse("admin:colours") in client.get("/admin/login/").content.decode()
