"""What all answers have in common: nothing is kept of them, none is 406, pages of faults hold no secret."""

import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from ami_headend.web.debug_pages import Filter, Reporter
from tests.test_doors import arguments, doors
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

SECRETS = (
    "pw-of-database",
    "pw of e-mail",
    "pw-of-redis",
    "the-secret-key-of-this",
    "the-metrics-token",
    "b3A6cHc=",
    "cookie-of-a-session",
)


pytestmark = pytest.mark.django_db


@pytest.fixture
def root() -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_no_answer_is_kept_by_a_browser_or_proxy(root: Client) -> None:
    """That holds of every door, and of each role: test_doors.py and test_households.py ask them all."""
    assert "no-store" in root.get(reverse("admin:index"))["Cache-Control"]
    assert "no-store" in Client().get(reverse("admin:login"))["Cache-Control"]
    assert "public" in root.get(reverse("admin:colours"))["Cache-Control"]


@pytest.mark.usefixtures("rows")
def test_a_browser_gets_an_answer_of_the_api(root: Client) -> None:
    for door in doors():
        if not door.name.startswith("admin:") and door.method == "get":
            answer = root.get(reverse(door.name, args=arguments(door)), headers={"Accept": "text/html"})
            assert answer.status_code != 406, door.name
    assert root.get(reverse("meters"), headers={"Accept": "text/html"}).json()["results"]


def test_a_page_of_a_fault_holds_no_secret(settings: Settings, rf: Any) -> None:
    """Not in the settings, not in local variables, not quoted."""
    settings.DEBUG = True
    settings.DATABASE_URL = f"postgres://app:{SECRETS[0]}@db/ami"
    settings.EMAIL_URL = "smtp://ops:pw%20of%20e-mail@mail"
    settings.EMAIL_HOST_PASSWORD = SECRETS[1]
    settings.REDIS_URL = settings.CELERY_BROKER_URL = f"rediss://:{SECRETS[2]}@redis/0"
    settings.SECRET_KEY, settings.METRICS_TOKEN = SECRETS[3], SECRETS[4]
    request = rf.get("/admin/", HTTP_AUTHORIZATION=f"Basic {SECRETS[5]}")
    request.COOKIES = {settings.SESSION_COOKIE_NAME: SECRETS[6]}
    request.META["HTTP_COOKIE"] = f"{settings.SESSION_COOKIE_NAME}={SECRETS[6]}"
    try:
        local = [settings.DATABASE_URL, settings.EMAIL_URL, {"token": settings.METRICS_TOKEN}]
        raise RuntimeError(f"cannot reach {settings.REDIS_URL} with {local}")
    except RuntimeError:
        reporter = Reporter(request, *sys.exc_info())
        reporter.filter = Filter()
        pages = [reporter.get_traceback_html(), reporter.get_traceback_text()]
    for page in pages:
        assert "cannot reach" in page
        assert not [secret for secret in (*SECRETS, "pw%20of%20e-mail") if secret in page]
