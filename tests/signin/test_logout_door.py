"""The door of logouts by the OpenID provider, without one: each counts once, also for whoever is on the way in."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.http import HttpResponseRedirect
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.core import rate_limits
from ami_headend.signin import provider, provider_logouts, roles
from ami_headend.signin.logout_claims import LoggedOut, LogoutError
from ami_headend.signin.models import ProviderLogout, Session
from ami_headend.signin.provider import ProviderError

pytestmark = pytest.mark.django_db


def sent(address: str, client: Client | None = None) -> Any:
    return (client or Client()).post("/sign-in/provider/logout/", {"logout_token": "x"}, REMOTE_ADDR=address)


@pytest.fixture
def at_provider(settings: Settings) -> Iterator[None]:
    """A provider that lets Ann in, without asking anybody."""
    settings.OIDC_ISSUER, settings.OIDC_ROLES = "https://login.example", {"meter team": roles.OPERATOR}
    rate_limits.limiter().storage.reset()
    with mock.patch.object(provider, "redirect", return_value=HttpResponseRedirect("https://login.example/")):
        yield


def begin(client: Client) -> None:
    assert client.get("/sign-in/provider/").status_code == 302


def come_back(client: Client, settings: Settings, session: str = "") -> Any:
    claims = {"sub": "ann", settings.OIDC_ACCOUNT_CLAIM: "ann", settings.OIDC_ROLES_CLAIM: ["meter team"]}
    with mock.patch.object(provider, "claims_of", return_value={**claims, **({"sid": session} if session else {})}):
        return client.get(reverse("single-sign-on-answer"))


def log_out(subject: str, session: str, token_id: str) -> None:
    with mock.patch.object(provider, "logged_out", return_value=LoggedOut(subject, session, token_id)):
        assert sent("192.0.2.77").status_code == 200


def signed_in() -> int:
    return Session.objects.exclude(account=None).count()


@pytest.mark.usefixtures("at_provider")
def test_a_token_ends_sessions_once(settings: Settings) -> None:
    for token_id, left in (("one", 0), ("one", 1), ("two", 0)):
        client = Client()
        begin(client)
        assert come_back(client, settings).status_code == 302
        assert signed_in() == 1
        log_out("ann", "", token_id)
        assert signed_in() == left
        Session.objects.all().delete()
    settings.OIDC_ISSUER = "https://other.example"
    log_out("ann", "", "one")  # of another provider
    assert ProviderLogout.objects.count() == 3
    assert provider_logouts.purge(timezone.now() + timedelta(seconds=1)) == 3


@pytest.mark.usefixtures("at_provider")
@pytest.mark.parametrize("session", ["", "s1"])
def test_a_sign_in_that_is_under_way_does_not_outlive_a_logout(settings: Settings, session: str) -> None:
    client, other = Client(), Client()
    begin(client)
    log_out("kim", "", "zero")
    log_out("ann", "s9" if session else "", "one")  # of another session there
    if session:
        log_out("", "s1", "two")
    answer = come_back(client, settings, session)
    assert answer.status_code == 400
    assert "You were signed out at the provider meanwhile. Start again." in answer.content.decode()
    assert signed_in() == 0
    begin(client)
    assert come_back(client, settings, session).status_code == (400 if session else 302)  # s1 is over there
    begin(other)
    assert come_back(other, settings, "s2").status_code == 302


@pytest.mark.parametrize(("error", "status"), [(LogoutError("it is no token"), 400), (ProviderError("down"), 503)])
def test_one_address_has_only_so_many_refused(settings: Settings, error: Exception, status: int) -> None:
    settings.OIDC_ISSUER = "https://login.example"
    rate_limits.limiter().storage.reset()
    client = Client()
    with mock.patch.object(provider, "logged_out", return_value=LoggedOut("nobody", "", "one")):
        answers = [sent("192.0.2.77", client) for _ in range(61)]
    assert {answer.status_code for answer in answers} == {200}  # logouts may come in any number
    with mock.patch.object(provider, "logged_out", side_effect=error) as asked:
        assert [sent("192.0.2.77", client).status_code for _ in range(60)] == [status] * 60
        answer = sent("192.0.2.77", client)
        assert answer.status_code == 429
        assert int(answer["Retry-After"]) >= 1
        assert asked.call_count == 60
        assert sent("192.0.2.78", client).status_code == status
