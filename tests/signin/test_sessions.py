"""Sessions: when they end, and what counts as use."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from pytest_django.fixtures import Settings

from ami_headend.signin import roles, secondfactor
from tests.concentrators.statements import counting
from tests.signin.people import (
    ACCOUNT,
    ACTOR,
    SECOND,
    after,
    code,
    enrolled,
    give_password,
    is_signed_in,
    member,
    officer,
)

pytestmark = pytest.mark.django_db

BY_SCRIPT = {"Sec-Fetch-Mode": "cors"}


@pytest.fixture
def operator(client: Client) -> User:
    user = member("op", roles.OPERATOR)
    give_password(client, "op")
    return user


def test_a_session_ends_when_it_is_not_used(client: Client, operator: User, settings: Settings) -> None:
    with after(settings.SESSION_IDLE_S - 5):
        assert is_signed_in(client)
    with after(2 * settings.SESSION_IDLE_S - 15):
        assert is_signed_in(client)
    with after(3 * settings.SESSION_IDLE_S):
        assert not is_signed_in(client)
    assert "not used for a while" in client.get("/admin/login/").content.decode()


def test_a_page_that_renews_itself_does_not_count_as_use(client: Client, operator: User, settings: Settings) -> None:
    with after(settings.SESSION_IDLE_S - 5):
        assert client.get(ACCOUNT, headers=BY_SCRIPT).status_code == 200
    with after(settings.SESSION_IDLE_S + 5):
        assert client.get(ACCOUNT, headers=BY_SCRIPT).status_code == 302


def test_a_session_lasts_only_so_long(client: Client, operator: User, settings: Settings) -> None:
    for used in range(1, settings.SESSION_ABSOLUTE_S, settings.SESSION_IDLE_S - 60):
        with after(used):
            assert is_signed_in(client)
    with after(settings.SESSION_ABSOLUTE_S + 5):
        assert not is_signed_in(client)


def test_a_new_password_ends_the_other_sessions(client: Client, operator: User) -> None:
    other = Client()
    give_password(other, "op")
    new = "another long password"
    change = {"old_password": "a long enough password", "new_password1": new, "new_password2": new}
    assert client.post("/admin/password_change/", change).status_code == 302
    assert is_signed_in(client)
    assert not is_signed_in(other)


def test_who_gets_a_right_over_keys_has_to_set_up_a_second_factor(client: Client, operator: User) -> None:
    assert is_signed_in(client)
    operator.groups.add(Group.objects.get(name=roles.KEY_OFFICER))
    assert not is_signed_in(client)
    assert give_password(client, "op")["Location"] == SECOND


def test_the_api_does_not_take_a_session_that_lacks_the_second_factor(client: Client, operator: User) -> None:
    assert client.get("/api/v1/meters").status_code == 200
    operator.groups.add(Group.objects.get(name=roles.KEY_OFFICER))
    assert client.get("/api/v1/meters").status_code == 401


def test_a_second_factor_that_is_reset_takes_its_sessions_with_it(client: Client, settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    user = officer()
    secret, _ = enrolled(user)
    give_password(client, "officer")
    client.post(SECOND, {"code": code(secret, 1)})
    assert is_signed_in(client)
    secondfactor.remove(user, ACTOR)
    assert not is_signed_in(client)


def test_who_carries_no_session_costs_no_query(client: Client) -> None:
    with counting() as statements:
        assert client.get("/health/live").status_code == 200
    assert not statements.take()


def test_a_session_from_when_the_clock_was_ahead_is_over_once_it_is_right(client: Client) -> None:
    member("op", roles.OPERATOR)
    with after(7200):
        give_password(client, "op")
        assert is_signed_in(client)
    assert not is_signed_in(client)
    with after(-1):  # as far as the clocks of two hosts may differ
        give_password(client, "op")
    with after(-2):
        assert is_signed_in(client)
