"""The door of logouts by the OpenID provider, without one: how often an address may send what is no logout."""

from typing import Any
from unittest import mock

import pytest
from django.test import Client
from pytest_django import Settings

from ami_headend.core import rate_limits
from ami_headend.signin import provider
from ami_headend.signin.logout_claims import LoggedOut, LogoutError
from ami_headend.signin.provider import ProviderError

pytestmark = pytest.mark.django_db


def sent(address: str) -> Any:
    return Client().post("/sign-in/provider/logout/", {"logout_token": "x"}, REMOTE_ADDR=address)


@pytest.mark.parametrize(("error", "status"), [(LogoutError("it is no token"), 400), (ProviderError("down"), 503)])
def test_one_address_has_only_so_many_refused(settings: Settings, error: Exception, status: int) -> None:
    settings.OIDC_ISSUER = "https://login.example"
    rate_limits.limiter().storage.reset()
    with mock.patch.object(provider, "logged_out", return_value=LoggedOut("nobody", "")):
        assert {sent("192.0.2.77").status_code for _ in range(61)} == {200}  # logouts may come in any number
    with mock.patch.object(provider, "logged_out", side_effect=error) as asked:
        assert [sent("192.0.2.77").status_code for _ in range(60)] == [status] * 60
        answer = sent("192.0.2.77")
        assert answer.status_code == 429
        assert int(answer["Retry-After"]) >= 1
        assert asked.call_count == 60
        assert sent("192.0.2.78").status_code == status
