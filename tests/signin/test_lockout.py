"""Lock-out after failed attempts, of the pages and of the API, and the journal of all of them."""

import base64
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from django.utils import timezone
from pytest_django.fixtures import Settings

from ami_headend.signin import lockout, roles, secondfactor, tasks
from ami_headend.signin.models import Authenticator, RecoveryCodes, SignIn, SignInOutcome
from ami_headend.signin.secondfactor import SecondFactorError
from tests.signin.people import ACCOUNT, PASSWORD, SECOND, code, enrolled, give_password, member, officer, wrong

pytestmark = pytest.mark.django_db

API = "/api/v1/meters"
AHEAD = timedelta(hours=2)
HERE, THERE = "192.0.2.7", "192.0.2.8"


def api(client: Client, name: str, password: str, address: str = HERE) -> int:
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    answer = client.get(API, headers={"Authorization": f"Basic {credentials}"}, REMOTE_ADDR=address)
    assert answer["Content-Type"] in ("application/json", "application/problem+json")
    return answer.status_code


def journal() -> dict[tuple[str, str], int]:
    return {(row.account, row.outcome): row.attempts for row in SignIn.objects.all()}


def test_five_wrong_passwords_lock_the_account_for_that_address(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    for _ in range(settings.SIGN_IN_FAILURES - 1):
        assert give_password(client, "op", "wrong", HERE).status_code == 200
    locked = give_password(client, "op", "wrong", HERE)
    assert locked.status_code == 429
    assert locked["Retry-After"] == str(settings.SIGN_IN_LOCKOUT_S)
    assert "Wait 15 minutes" in locked.content.decode()
    assert give_password(client, "op", PASSWORD, HERE).status_code == 429
    assert api(client, "op", PASSWORD) == 429
    # Nobody keeps the owner out from elsewhere, nor another account from here.
    member("second", roles.OPERATOR)
    assert give_password(Client(), "second", PASSWORD, HERE).status_code == 302
    assert give_password(Client(), "op", PASSWORD, THERE).status_code == 302
    assert journal() == {
        ("op", SignInOutcome.WRONG_PASSWORD): 4,
        ("op", SignInOutcome.LOCKED_OUT): 3,
        ("second", SignInOutcome.SIGNED_IN): 1,
        ("op", SignInOutcome.SIGNED_IN): 1,
    }


def test_a_lock_ends_by_itself_whatever_is_tried_meanwhile(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    for _ in range(settings.SIGN_IN_FAILURES):
        give_password(client, "op", "wrong", HERE)
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(seconds=settings.SIGN_IN_LOCKOUT_S - 30))
    assert give_password(client, "op", "wrong", HERE).status_code == 429
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(seconds=settings.SIGN_IN_LOCKOUT_S + 1))
    assert give_password(client, "op", PASSWORD, HERE).status_code == 302


def test_an_administrator_unlocks(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    for _ in range(settings.SIGN_IN_FAILURES):
        give_password(client, "op", "wrong", HERE)
    assert lockout.unlock("op") > 0
    assert give_password(client, "op", PASSWORD, HERE).status_code == 302


def test_unknown_names_are_locked_as_known_ones_and_kept_nowhere(client: Client, settings: Settings) -> None:
    for _ in range(settings.SIGN_IN_FAILURES - 1):
        assert "correct username" in give_password(client, "my p4ssword", "wrong", HERE).content.decode()
    assert give_password(client, "my p4ssword", "wrong", HERE).status_code == 429
    assert journal() == {("", SignInOutcome.WRONG_PASSWORD): 4, ("", SignInOutcome.LOCKED_OUT): 1}
    for odd in ("", "x" * 5000, "a\0b", "caf\u00e9 \u202e"):
        assert give_password(client, odd, "wrong", THERE).status_code == 200


def test_a_flood_takes_one_row_an_hour(client: Client) -> None:
    for number in range(20):
        give_password(client, f"nobody{number}", "wrong", HERE)
    assert journal() == {("", SignInOutcome.WRONG_PASSWORD): 20}


def test_wrong_codes_count_as_wrong_passwords_do(client: Client, settings: Settings) -> None:
    secret, _ = enrolled(officer())
    give_password(client, "officer", "wrong", HERE)
    give_password(client, "officer", PASSWORD, HERE)
    for _ in range(settings.SIGN_IN_FAILURES - 2):
        Authenticator.objects.update(throttling_failure_timestamp=None)
        assert client.post(SECOND, {"code": wrong(secret)}, REMOTE_ADDR=HERE).status_code == 200
    Authenticator.objects.update(throttling_failure_timestamp=None)
    assert client.post(SECOND, {"code": wrong(secret)}, REMOTE_ADDR=HERE).status_code == 429
    Authenticator.objects.update(throttling_failure_timestamp=None)
    assert client.post(SECOND, {"code": code(secret, 1)}, REMOTE_ADDR=HERE).status_code == 429
    kept = AccessAttempt.objects.values_list("post_data", flat=True)
    assert not [text for text in kept if wrong(secret) in text or "wrong" in text]
    assert journal()["officer", SignInOutcome.WRONG_CODE] == settings.SIGN_IN_FAILURES - 1


def test_guesses_on_the_account_page_lock_too(client: Client, settings: Settings) -> None:
    secret, _ = enrolled(officer())
    give_password(client, "officer")
    client.post(SECOND, {"code": code(secret, 1)})
    for _ in range(settings.SIGN_IN_FAILURES):
        Authenticator.objects.update(throttling_failure_timestamp=None)
        answer = client.post(ACCOUNT, {"code": wrong(secret), "change": "codes"})
    assert answer.status_code == 429


class TestApi:
    """HTTP basic authentication."""

    def test_failures_lock_out(self, client: Client, settings: Settings) -> None:
        member("op", roles.OPERATOR)
        assert api(client, "op", PASSWORD) == 200
        for _ in range(settings.SIGN_IN_FAILURES - 1):
            assert api(client, "op", "wrong") == 401
        assert api(client, "op", "wrong") == 429
        assert api(client, "op", PASSWORD) == 429
        assert give_password(client, "op", PASSWORD, HERE).status_code == 429
        assert api(client, "op", PASSWORD, THERE) == 200
        assert journal() == {("op", SignInOutcome.WRONG_PASSWORD): 4, ("op", SignInOutcome.LOCKED_OUT): 3}

    def test_a_password_does_not_pass_the_second_factor_by(self, client: Client, settings: Settings) -> None:
        officer()
        assert api(client, "officer", PASSWORD) == 403
        settings.TWO_FACTOR_REQUIRED = False
        assert api(client, "officer", PASSWORD) == 200
        enrolled(User.objects.get())
        assert api(client, "officer", PASSWORD) == 403
        assert api(client, "officer", "wrong") == 401
        assert journal() == {("officer", SignInOutcome.REFUSED): 2, ("officer", SignInOutcome.WRONG_PASSWORD): 1}


def test_old_rows_and_sessions_go(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    give_password(client, "op")
    tasks.purge_sign_ins()
    assert SignIn.objects.count() == 1
    SignIn.objects.update(last_at=timezone.now() - timedelta(days=settings.SIGN_IN_KEEP_DAYS + 1))
    tasks.purge_sign_ins()
    assert SignIn.objects.count() == 0


@pytest.mark.parametrize("kept", [AHEAD, timedelta(0)], ids=["ahead", "now"])
def test_a_lock_out_from_when_the_clock_was_ahead_is_over_once_it_is_right(
    client: Client, settings: Settings, kept: timedelta
) -> None:
    member("op", roles.OPERATOR)
    for _ in range(settings.SIGN_IN_FAILURES):
        give_password(client, "op", "wrong", HERE)
    AccessAttempt.objects.update(attempt_time=timezone.now() + kept)
    assert lockout.is_locked(RequestFactory().get("/", REMOTE_ADDR=HERE), "op") is not bool(kept)
    status = give_password(client, "op", "wrong", HERE).status_code
    assert status == (200 if kept else 429)  # it is the first one, or one too many


def test_wrong_codes_from_when_the_clock_was_ahead_keep_nobody_waiting() -> None:
    user = officer()
    secret, codes = enrolled(user)
    ahead = {"throttling_failure_count": 9, "throttling_failure_timestamp": timezone.now() + AHEAD}
    for model in (Authenticator, RecoveryCodes):
        model.objects.update(**ahead)
    assert isinstance(secondfactor.verify(user, code(secret, 1)), Authenticator)
    assert isinstance(secondfactor.verify(user, codes[0]), RecoveryCodes)
    Authenticator.objects.update(throttling_failure_count=9, throttling_failure_timestamp=timezone.now())
    with pytest.raises(SecondFactorError, match="wait"):
        secondfactor.verify(user, code(secret, 2))
