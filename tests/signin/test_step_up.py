"""A session alone, as a thief of the cookie has it: what it may not do, how the proof is given, what it is good for."""

from base64 import b64encode
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from ami_headend.signin import roles, secondfactor
from ami_headend.signin.models import Session
from keyvault.models import AuditRecord
from tests.signin.people import (
    ACCOUNT,
    ACTOR,
    PASSWORD,
    SECOND,
    SET_UP,
    after,
    code,
    enrolled,
    give_password,
    member,
    wrong,
)

pytestmark = pytest.mark.django_db

CONFIRM = "/sign-in/confirm/"
OWN_PASSWORD = "/admin/password_change/"
NEW = "another long password"


class Owner:
    """An account with a second factor, its client, and its phone; each code is of another time."""

    def __init__(self, role: str) -> None:
        self.user = member(role, role)
        self.secret, self.recovery = enrolled(self.user)
        self.client = Client(HTTP_USER_AGENT="Firefox of the owner")
        give_password(self.client, role)
        assert self.client.post(SECOND, {"code": code(self.secret, 1)}).status_code == 302

    def thief(self) -> Client:
        """Somebody else's browser with the owner's cookie."""
        thief = Client()
        thief.cookies = self.client.cookies.copy()  # type: ignore[assignment]
        return thief


@pytest.fixture
def administrator() -> Owner:
    return Owner(roles.ADMINISTRATOR)


@pytest.fixture
def stale(administrator: Owner, settings: Settings) -> Iterator[None]:
    """The last proof is too long ago."""
    with after(settings.STEP_UP_S + 1):
        yield


def page_of(user: User, act: str) -> str:
    return reverse(f"admin:auth_user_{act}", args=[user.pk])


def test_a_stolen_session_does_not_become_its_account(administrator: Owner) -> None:
    """Not even right after the sign-in: one's own password and second factor are changed by themselves alone."""
    thief, user = administrator.thief(), administrator.user
    before = user.password
    passwords = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    for number in (f"{user.pk}", f"0{user.pk}", f"%20{user.pk}", f"_{ord(str(user.pk)[0]):02X}{str(user.pk)[1:]}"):
        for act in ("password_change", "reset_second_factor"):
            answer = thief.post(page_of(user, act).replace(f"/{user.pk}/", f"/{number}/"), passwords)
            assert answer.status_code in (403, 404) or answer.get("Location") in (OWN_PASSWORD, ACCOUNT), number
    thief.post(OWN_PASSWORD, {"old_password": "guessed", "new_password1": NEW, "new_password2": NEW})
    for change in ("codes", "replace", "remove"):
        thief.post(ACCOUNT, {"change": change, "code": wrong(administrator.secret)})
    thief.post(SET_UP, {"code": "123456"})
    user.refresh_from_db()
    assert user.password == before
    assert secondfactor.is_set_up(user)


def test_a_stolen_session_sets_up_no_second_factor(client: Client, settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    user = member("op", roles.OPERATOR)
    give_password(client, "op")
    assert client.get(SET_UP)["Location"] == f"{CONFIRM}?next=%2Fsign-in%2Fset-up%2F"
    assert client.post(SET_UP, {"code": "123456"})["Location"].startswith(CONFIRM)
    assert not secondfactor.is_set_up(user)
    assert client.post(f"{CONFIRM}?next={SET_UP}", {"step_up_proof": PASSWORD})["Location"] == SET_UP
    assert client.get(SET_UP).status_code == 200


@pytest.mark.usefixtures("stale")
def test_an_act_waits_for_the_proof_and_then_is_done(administrator: Owner) -> None:
    other = member("other", roles.KEY_OFFICER)
    enrolled(other)
    address, client = page_of(other, "reset_second_factor"), administrator.client
    asked = client.post(address, {"note": "phone lost & found"})
    assert asked.status_code == 403
    assert 'name="note" value="phone lost &amp; found"' in asked.content.decode()
    assert client.post(address, {"step_up_proof": wrong(administrator.secret)}).status_code == 403
    assert secondfactor.is_set_up(other)
    assert client.post(address, {"step_up_proof": administrator.recovery[0]}).status_code == 302
    assert not secondfactor.is_set_up(other)
    assert client.post(page_of(other, "unlock")).status_code == 302  # it is good for a while


@pytest.mark.usefixtures("stale")
def test_the_proof_of_the_owner_does_not_serve_the_thief(administrator: Owner) -> None:
    thief = administrator.thief()
    assert thief.get(ACCOUNT).status_code == 200
    assert administrator.client.post(CONFIRM, {"step_up_proof": administrator.recovery[0]}).status_code == 302
    assert thief.get(ACCOUNT).status_code == 302
    assert administrator.client.get(ACCOUNT).status_code == 200


@pytest.mark.usefixtures("stale")
def test_a_code_is_good_for_one_of_two_that_come_with_it(administrator: Owner) -> None:
    thief, given = administrator.thief(), {"step_up_proof": administrator.recovery[0]}
    assert administrator.client.post(CONFIRM, given).status_code == 302
    again = Owner.thief(administrator)
    assert thief.post(CONFIRM, given).status_code == 302  # to the sign-in
    assert thief.get(ACCOUNT).status_code == 302
    assert "was used before" in again.post(CONFIRM, given).content.decode()


def test_wrong_proofs_come_to_the_lock_out(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    give_password(client, "op")
    answers = [client.post(CONFIRM, {"step_up_proof": "guess"}).status_code for _ in range(settings.SIGN_IN_FAILURES)]
    assert answers[:-1] == [200] * (settings.SIGN_IN_FAILURES - 1)
    assert client.post(CONFIRM, {"step_up_proof": PASSWORD}).status_code == 429


def test_wrong_old_passwords_come_to_the_lock_out(client: Client, settings: Settings) -> None:
    member("op", roles.OPERATOR)
    give_password(client, "op")
    change = {"old_password": "guess", "new_password1": NEW, "new_password2": NEW}
    for _ in range(settings.SIGN_IN_FAILURES):
        client.post(OWN_PASSWORD, change)
    assert client.post(OWN_PASSWORD, {**change, "old_password": PASSWORD}).status_code == 429
    assert User.objects.get(username="op").check_password(PASSWORD)


@pytest.mark.usefixtures("stale")
def test_the_api_says_where_to_confirm(administrator: Owner) -> None:
    answer = administrator.client.post("/api/v1/rotations", {}, content_type="application/json")
    assert answer.status_code == 403
    assert CONFIRM in answer.json()["detail"]


def test_a_password_that_comes_along_is_fresh_each_time(settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    member("program", roles.KEY_OFFICER)
    client = Client(headers={"Authorization": f"Basic {b64encode(f'program:{PASSWORD}'.encode()).decode()}"})
    with after(10_000):
        assert client.post("/api/v1/rotations", {}, content_type="application/json").status_code == 400


@pytest.mark.usefixtures("stale")
def test_the_way_back_leads_to_no_other_host(administrator: Owner) -> None:
    answer = administrator.client.post(f"{CONFIRM}?next=//evil.example/", {"step_up_proof": administrator.recovery[0]})
    assert answer["Location"] == "/admin/"


@pytest.mark.usefixtures("stale")
def test_passwords_are_not_written_into_the_page(administrator: Owner) -> None:
    other = member("other", roles.OPERATOR)
    address = page_of(other, "password_change")
    assert administrator.client.get(address)["Location"].startswith(CONFIRM)
    asked = administrator.client.post(address, {"password1": NEW, "password2": NEW})
    assert asked.status_code == 403
    assert NEW not in asked.content.decode()


@pytest.mark.usefixtures("stale")
def test_another_site_cannot_have_it_confirmed(administrator: Owner) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = administrator.client.cookies
    for address in (CONFIRM, page_of(administrator.user, "unlock")):
        assert strict.post(address, {"step_up_proof": administrator.recovery[0]}).status_code == 403
    assert secondfactor.codes_left(administrator.user) == len(administrator.recovery)
    page = administrator.client.get(CONFIRM)
    assert page["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in page["Content-Security-Policy"]


def test_sessions_are_listed_and_ended_by_their_owner(administrator: Owner) -> None:
    elsewhere = Client(HTTP_USER_AGENT="Safari elsewhere")
    give_password(elsewhere, roles.ADMINISTRATOR, address="192.0.2.7")
    elsewhere.post(SECOND, {"code": administrator.recovery[0]}, REMOTE_ADDR="192.0.2.7")
    shown = administrator.client.get(ACCOUNT).content.decode()
    assert "Firefox of the owner" in shown
    assert "Safari elsewhere" in shown
    assert "192.0.2.7" in shown
    stranger = Owner(roles.KEY_OFFICER)
    theirs = Session.objects.get(account=stranger.user).session_key
    administrator.client.post(ACCOUNT, {"change": "end", "session": ["others", theirs]})
    assert elsewhere.get(ACCOUNT).status_code == 302
    assert administrator.client.get(ACCOUNT).status_code == 200
    assert stranger.client.get(ACCOUNT).status_code == 200


def test_an_administrator_ends_the_sessions_of_others(administrator: Owner) -> None:
    other = Owner(roles.KEY_OFFICER)
    address = page_of(other.user, "end_sessions")
    assert "Firefox of the owner" in administrator.client.get(address).content.decode()
    assert administrator.client.post(address).status_code == 302
    assert other.client.get(ACCOUNT).status_code == 302
    assert AuditRecord.objects.order_by("-number")[0].act == "user.end_sessions"


def test_a_new_password_or_factor_leaves_no_session_in_the_list(administrator: Owner) -> None:
    thief = administrator.thief()
    secondfactor.remove(administrator.user, ACTOR)
    assert thief.get(ACCOUNT).status_code == 302
    fresh = Client()
    fresh.force_login(administrator.user)
    administrator.user.set_password(NEW)
    administrator.user.save()
    assert fresh.get(ACCOUNT).status_code == 302


def test_the_database_holds_no_key_that_opens_a_session(administrator: Owner) -> None:
    key = administrator.client.session.session_key
    assert key
    assert key not in str(list(Session.objects.values()))
    planted = Client()
    planted.cookies["sessionid"] = Session.objects.get(account=administrator.user).session_key
    assert planted.get(ACCOUNT).status_code == 302


def test_a_session_that_was_planted_before_is_not_the_one_signed_in(administrator: Owner) -> None:
    victim = Client()
    victim.get("/admin/login/")
    victim.cookies["sessionid"] = "planted0planted0planted0planted0"
    member("op", roles.OPERATOR)
    give_password(victim, "op")
    assert victim.cookies["sessionid"].value != "planted0planted0planted0planted0"
