"""Whether a sign-in at the provider counts as a fresh proof: only if the provider says that it has just been given."""

import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from ami_headend.signin import roles
from concentrators.models import Concentrator
from tests.signin.people import is_signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _configured(settings: Settings) -> None:
    settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_NAME = "https://login.example", "headend", "Login"
    settings.OIDC_ROLES = {"it": roles.ADMINISTRATOR}


@pytest.fixture
def claims() -> Iterator[dict[str, Any]]:
    """What the provider says of whoever comes back from it."""
    said: dict[str, Any] = {"sub": "subject-of-ann", "preferred_username": "ann", "groups": ["it"]}
    with mock.patch("ami_headend.signin.provider.claims_of", return_value=said):
        yield said


def act(client: Client) -> Any:
    """Register a concentrator, which takes a fresh proof."""
    return client.post(reverse("admin:concentrators_concentrator_add"), {"name": "DCU-7", "is_active": "on"})


@pytest.mark.parametrize("said", [None, -3_600.0, "now", 1e300])
def test_whoever_was_signed_in_there_long_ago_has_proven_nothing_now(
    claims: dict[str, Any], said: float | str | None
) -> None:
    """Signed in again without a word, as a browser is whose session at the provider goes on."""
    client = Client()
    if said is not None:
        claims["auth_time"] = said if isinstance(said, str) else time.time() + said
    assert client.get("/sign-in/provider/answer/").status_code == 302
    assert is_signed_in(client)
    assert act(client).status_code == 403
    assert not Concentrator.objects.exists()


def test_whoever_has_just_signed_in_there_has(claims: dict[str, Any]) -> None:
    client = Client()
    claims["auth_time"] = int(time.time()) - 5
    client.get("/sign-in/provider/answer/")
    assert act(client).status_code == 302
    assert Concentrator.objects.get().name == "DCU-7"
