"""The sign-in as a person goes through it: password, second factor, set-up, and the account's own page."""

import re
from html import unescape
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from ami_headend.signin import roles, secondfactor
from ami_headend.signin.models import SignIn, SignInOutcome
from tests.signin.people import (
    ACCOUNT,
    LOGIN,
    SECOND,
    SET_UP,
    after,
    code,
    enrolled,
    give_password,
    is_signed_in,
    member,
    officer,
    wrong,
)

pytestmark = pytest.mark.django_db


def secret_on(text: str) -> str:
    found = re.search(r'<code id="secret"[^>]*>([A-Z2-7 ]+)</code>', text)
    assert found is not None
    return found[1]


def codes_on(text: str) -> list[str]:
    found = re.search(r'<ul id="recovery-codes".*?</ul>', text, re.DOTALL)
    return re.findall(r"<li>([a-z0-9-]+)</li>", found[0]) if found else []


def outcomes() -> dict[str, int]:
    return {row.outcome: row.attempts for row in SignIn.objects.all()}


def test_an_operator_signs_in_by_password(client: Client) -> None:
    member("op", roles.OPERATOR)
    answer = give_password(client, "op")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    assert is_signed_in(client)
    assert outcomes() == {SignInOutcome.SIGNED_IN: 1}


def test_the_page_that_was_asked_for_comes_after(client: Client) -> None:
    member("op", roles.OPERATOR)
    answer = client.get("/admin/meters/meter/")
    assert answer["Location"] == f"{LOGIN}?next=/admin/meters/meter/"
    answer = client.post(answer["Location"], {"username": "op", "password": "a long enough password"})
    assert answer["Location"] == "/admin/meters/meter/"
    client.logout()
    elsewhere = client.post(
        f"{LOGIN}?next=https://evil.example/", {"username": "op", "password": "a long enough password"}
    )
    assert elsewhere["Location"] == "/admin/"


def test_a_key_officer_sets_up_the_second_factor_and_signs_in_with_it(client: Client) -> None:
    user = officer()
    assert give_password(client, "officer")["Location"] == SECOND
    assert not is_signed_in(client)
    assert client.get(SECOND)["Location"] == SET_UP
    page = client.get(SET_UP).content.decode()
    assert "<svg" in page
    secret = secret_on(page)
    assert "is wrong" in client.post(SET_UP, {"code": wrong(secret)}).content.decode()
    assert not is_signed_in(client)
    codes = codes_on(client.post(SET_UP, {"code": code(secret)}).content.decode())
    assert len(codes) == secondfactor.RECOVERY_CODES
    assert is_signed_in(client)
    assert codes[0] not in client.get(ACCOUNT).content.decode()

    again = Client()
    assert give_password(again, "officer")["Location"] == SECOND
    assert not is_signed_in(again)
    assert again.get(SET_UP)["Location"] == SECOND
    assert again.post(SECOND, {"code": code(secret, 1)})["Location"] == "/admin/"
    assert is_signed_in(again)

    by_recovery = Client()
    give_password(by_recovery, "officer")
    assert by_recovery.post(SECOND, {"code": codes[2]})["Location"] == "/admin/"
    assert "9 are left" in by_recovery.get(ACCOUNT).content.decode()
    assert outcomes() == {SignInOutcome.SIGNED_IN: 2, SignInOutcome.RECOVERY_CODE: 1}
    assert SignIn.objects.filter(account=user.username).count() == 2


def test_another_secret_at_each_sign_in(client: Client) -> None:
    """A secret that someone else with the password has seen is not the one that the owner sets up."""
    officer()
    give_password(client, "officer")
    seen = secret_on(client.get(SET_UP).content.decode())
    owner = Client()
    give_password(owner, "officer")
    assert secret_on(owner.get(SET_UP).content.decode()) != seen


@pytest.mark.parametrize("url", [SECOND, SET_UP])
def test_nobody_begins_with_the_second_step(client: Client, url: str) -> None:
    assert client.get(url)["Location"] == LOGIN
    assert client.post(url, {"code": "123456"})["Location"] == LOGIN


def test_the_second_step_does_not_wait_for_ever(client: Client) -> None:
    secret, _ = enrolled(officer())
    give_password(client, "officer")
    with after(601):
        assert client.post(SECOND, {"code": code(secret, 1)})["Location"] == LOGIN
    assert not is_signed_in(client)


@pytest.mark.parametrize("change", ["password", "is_active"])
def test_the_second_step_ends_with_the_account_or_its_password(client: Client, change: str) -> None:
    user = officer()
    secret, _ = enrolled(user)
    give_password(client, "officer")
    if change == "password":
        user.set_password("another long password")
    else:
        user.is_active = False
    user.save()
    assert client.post(SECOND, {"code": code(secret, 1)})["Location"] == LOGIN
    assert not is_signed_in(client)


def test_an_account_with_a_second_factor_is_asked_for_it_where_none_is_required(
    client: Client, settings: Settings
) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    secret, _ = enrolled(member("op", roles.OPERATOR))
    assert give_password(client, "op")["Location"] == SECOND
    client.post(SECOND, {"code": code(secret, 1)})
    assert is_signed_in(client)


def test_set_up_waits_for_the_audit_chain(client: Client, settings: Settings, tmp_path: Path) -> None:
    officer()
    give_password(client, "officer")
    secret = secret_on(client.get(SET_UP).content.decode())
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    text = unescape(client.post(SET_UP, {"code": code(secret)}).content.decode())
    assert "cannot be written now" in text
    assert not is_signed_in(client)
    assert not secondfactor.is_set_up(User.objects.get())


class TestAccountPage:
    """What an account changes about its own second factor."""

    @pytest.fixture
    def secret(self, client: Client) -> str:
        secret, _ = enrolled(officer())
        give_password(client, "officer")
        client.post(SECOND, {"code": code(secret, 1)})
        return secret

    def test_new_recovery_codes(self, client: Client, secret: str) -> None:
        codes = codes_on(client.post(ACCOUNT, {"code": code(secret, 2), "change": "codes"}).content.decode())
        assert len(codes) == secondfactor.RECOVERY_CODES
        assert is_signed_in(client)

    def test_another_phone(self, client: Client, secret: str) -> None:
        assert client.get(SET_UP)["Location"] == ACCOUNT  # not without a code
        assert client.post(ACCOUNT, {"code": code(secret, 2), "change": "replace"})["Location"] == SET_UP
        fresh = secret_on(client.get(SET_UP).content.decode())
        assert codes_on(client.post(SET_UP, {"code": code(fresh)}).content.decode())
        assert is_signed_in(client)
        assert client.get(SET_UP)["Location"] == ACCOUNT

    def test_other_sessions_end_when_the_phone_is_replaced(self, client: Client, secret: str) -> None:
        other = Client()
        give_password(other, "officer")
        other.post(SECOND, {"code": code(secret, 2)})
        assert is_signed_in(other)
        client.post(ACCOUNT, {"code": code(secret, 3), "change": "replace"})
        fresh = secret_on(client.get(SET_UP).content.decode())
        client.post(SET_UP, {"code": code(fresh)})
        assert not is_signed_in(other)

    def test_who_needs_one_cannot_turn_it_off(self, client: Client, secret: str) -> None:
        text = client.post(ACCOUNT, {"code": code(secret, 2), "change": "remove"}).content.decode()
        assert "replace it instead" in text
        assert 'value="remove"' not in text
        assert secondfactor.is_set_up(User.objects.get())

    def test_nothing_without_a_right_code(self, client: Client, secret: str) -> None:
        assert "is wrong" in client.post(ACCOUNT, {"code": wrong(secret), "change": "codes"}).content.decode()
        assert "Choose what" in client.post(ACCOUNT, {"code": "1", "change": "x"}).content.decode()


def test_who_needs_none_turns_it_off(client: Client) -> None:
    secret, _ = enrolled(member("op", roles.OPERATOR))
    give_password(client, "op")
    client.post(SECOND, {"code": code(secret, 1)})
    assert client.post(ACCOUNT, {"code": code(secret, 2), "change": "remove"})["Location"] == ACCOUNT
    assert is_signed_in(client)
    client.logout()
    assert give_password(client, "op")["Location"] == "/admin/"
