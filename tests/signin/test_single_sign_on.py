"""Sign-in at a real OpenID provider: who gets in with which roles, who does not, step-up, a provider that is down."""

import base64
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import requests
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.core import rate_limits
from ami_headend.health import neighbours
from ami_headend.settings_checks import check_settings
from ami_headend.signin import federated, provider, roles, sessions
from ami_headend.signin.federated import RefusedError
from ami_headend.signin.logout_claims import LoggedOut
from ami_headend.signin.models import FederatedIdentity, Session, SignIn, SignInOutcome
from keyvault.audit.chain import AuditError
from keyvault.models import AuditRecord
from tests import identity_provider
from tests.signin.people import ACCOUNT, LOGIN, PASSWORD, after, give_password, is_signed_in, member

pytestmark = pytest.mark.django_db

ANSWER = "http://testserver/sign-in/provider/answer/"
PEOPLE = {
    "subject-of-ann": {"preferred_username": "ann", "groups": ["meter team", "everybody"]},
    "subject-of-ben": {"preferred_username": "ben", "groups": ["everybody"]},
    "subject-of-eve": {"preferred_username": "root", "groups": ["meter team"]},
    "subject-of-kim": {"preferred_username": "kim", "groups": ["key team", "meter team"]},
    "subject-of-odd": {"preferred_username": "od d:", "groups": ["meter team"]},
}


class Told(HTTPServer):
    """Keeps what the provider posts: who signed out."""

    tokens: list[str]


class _Telling(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert isinstance(self.server, Told)
        self.server.tokens += parse_qs(body)["logout_token"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with Told(("127.0.0.1", 0), _Telling) as server:
        server.tokens = []
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def issuer(told: Told) -> Iterator[str]:
    folder = identity_provider.brought()
    if folder is None:
        pytest.skip("the sign-in at a provider is left out: there is no npm (Debian, Ubuntu: apt install npm)")
    with identity_provider.running(folder, ANSWER, PEOPLE, f"http://127.0.0.1:{told.server_port}/") as found:
        yield found


def configure(settings: Settings, issuer: str) -> None:
    settings.OIDC_ISSUER = issuer
    settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = identity_provider.CLIENT_ID, identity_provider.CLIENT_SECRET
    settings.OIDC_NAME = "Utility Login"
    settings.OIDC_ROLES = {"meter team": roles.OPERATOR, "key team": roles.KEY_OFFICER}
    provider.forget()


@pytest.fixture(autouse=True)
def configured(request: pytest.FixtureRequest, settings: Settings) -> Iterator[None]:
    if "unconfigured" not in request.keywords:
        configure(settings, request.getfixturevalue("issuer"))
    rate_limits.limiter().storage.reset()  # Redis outlives the rows of a test
    yield
    provider.forget()


def to_provider(client: Client, query: str = "") -> str:
    answer = client.get(f"/sign-in/provider/{query}")
    assert answer.status_code == 302, answer.content
    return str(answer["Location"])


def go(client: Client, login: str, query: str = "", browser: httpx.Client | None = None) -> Any:
    """Sign in at the provider, and bring its answer back."""
    with browser or httpx.Client(timeout=30) as at_provider:
        back = identity_provider.signed_in(at_provider, to_provider(client, query), login, ANSWER)
    return client.get(back.removeprefix("http://testserver"))


def begun(session: Any) -> list[str]:
    """The keys under which a session keeps sign-ins that were begun."""
    return [key for key in [*session.keys()] if key.startswith("_state_provider_")]


def outcomes() -> list[tuple[str, str]]:
    return list(SignIn.objects.order_by("pk").values_list("outcome", "account"))


def groups_of(name: str) -> set[str]:
    return set(User.objects.get(username=name).groups.values_list("name", flat=True))


def test_the_request_has_state_nonce_and_pkce() -> None:
    asked = parse_qs(urlsplit(to_provider(Client())).query)
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert all(len(asked[name][0]) >= 20 for name in ("state", "nonce", "code_challenge"))
    assert asked["redirect_uri"] == [ANSWER]


def test_one_address_begins_only_so_many() -> None:
    codes = [Client().get("/sign-in/provider/", REMOTE_ADDR="192.0.2.77").status_code for _ in range(61)]
    assert codes[:60] == [302] * 60
    assert codes[60] == 429
    assert Client().get("/sign-in/provider/", REMOTE_ADDR="192.0.2.78").status_code == 302


def test_an_account_is_made_with_the_roles_of_the_claims_and_no_password() -> None:
    client = Client()
    answer = go(client, "subject-of-ann", "?next=/admin/meters/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/meters/")
    assert client.get("/admin/meters/").status_code == 200
    ann = User.objects.get(username="ann")
    assert (ann.is_staff, ann.is_superuser, ann.has_usable_password()) == (True, False, False)
    assert groups_of("ann") == {roles.OPERATOR}
    identity = FederatedIdentity.objects.get()
    assert (identity.user, identity.subject) == (ann, "subject-of-ann")
    assert outcomes() == [(SignInOutcome.PROVIDER, "ann")]
    assert [*AuditRecord.objects.order_by("number").values_list("act", "actor")] == [
        ("user.federate", "ann"), ("user.roles", "ann")
    ]  # fmt: skip
    assert "managed there" in client.get(ACCOUNT).content.decode()
    again = Client()
    assert go(again, "subject-of-ann").status_code == 302
    assert User.objects.count() == 1
    assert AuditRecord.objects.count() == 2


def test_a_role_that_needs_two_factors_gets_in_by_the_providers_word(settings: Settings) -> None:
    client = Client()
    go(client, "subject-of-kim")
    assert groups_of("kim") == {roles.OPERATOR, roles.KEY_OFFICER}
    assert client.get("/admin/keys/").status_code == 200
    settings.OIDC_SECOND_FACTOR = ["mfa", "urn:utility:two"]
    refused = go(Client(), "subject-of-kim")
    assert refused.status_code == 403
    assert "needs a second factor" in refused.content.decode()
    assert go(Client(), "subject-of-ann").status_code == 302  # an operator needs none
    kim = User.objects.get(username="kim")
    federated.check_second_factor(kim, {"amr": ["pwd", "mfa"]})
    federated.check_second_factor(kim, {"acr": "urn:utility:two"})


def test_no_role_is_no_entry_and_says_so() -> None:
    client = Client()
    answer = go(client, "subject-of-ben")
    assert answer.status_code == 403
    assert "groups gives everybody, which stands for no role" in answer.content.decode()
    assert not User.objects.exists()
    assert not is_signed_in(client)
    assert outcomes() == [(SignInOutcome.PROVIDER_REFUSED, "")]


def test_whoever_lost_all_roles_loses_them_here_and_every_session(settings: Settings) -> None:
    client = Client()
    go(client, "subject-of-ann")
    settings.OIDC_ROLES = {"key team": roles.KEY_OFFICER}
    assert go(Client(), "subject-of-ann").status_code == 403
    assert groups_of("ann") == set()
    assert not is_signed_in(client)
    assert AuditRecord.objects.latest("number").subject == {"name": "ann", "before": ["operator"], "now": []}
    assert outcomes()[-1] == (SignInOutcome.PROVIDER_REFUSED, "ann")


def test_groups_that_are_no_roles_stay() -> None:
    go(Client(), "subject-of-ann")
    ann = User.objects.get(username="ann")
    ann.groups.add(Group.objects.create(name="night shift"), Group.objects.get(name=roles.AUDITOR))
    go(Client(), "subject-of-ann")
    assert groups_of("ann") == {roles.OPERATOR, "night shift"}


def test_a_name_that_is_taken_is_given_to_nobody_until_it_is_linked(capsys: pytest.CaptureFixture[str]) -> None:
    User.objects.create_user("Root", password="x", is_staff=True)
    refused = go(Client(), "subject-of-eve")
    assert refused.status_code == 403
    assert "not known to be yours" in refused.content.decode()
    call_command("single_sign_on", "link", "Root", "subject-of-eve")
    client = Client()
    assert go(client, "subject-of-eve").status_code == 302
    assert is_signed_in(client)
    call_command("single_sign_on", "list")
    assert "Root  subject-of-eve at http://127.0.0.1" in capsys.readouterr().out
    with pytest.raises(CommandError, match="linked already"):
        call_command("single_sign_on", "link", "Root", "another")
    call_command("single_sign_on", "unlink", "Root")
    assert not is_signed_in(client)
    assert {"user.link", "user.unlink"} <= set(AuditRecord.objects.values_list("act", flat=True))


@pytest.mark.unconfigured
def test_a_name_that_only_looks_like_another_is_taken_too(settings: Settings) -> None:
    settings.OIDC_ISSUER, settings.OIDC_ROLES = "https://login.example", {"meter team": roles.OPERATOR}
    User.objects.create_user("ann")
    claims = {"sub": "other", "preferred_username": "\uff21\uff4e\uff4e", "groups": ["meter team"]}  # full-width
    with pytest.raises(RefusedError, match="There is an account Ann already"):
        federated.account_of(claims, "192.0.2.7", timezone.now())
    assert User.objects.count() == 1


def test_superusers_and_blocked_accounts_stay_out() -> None:
    User.objects.create_superuser("root")
    with pytest.raises(CommandError, match="superuser"):
        call_command("single_sign_on", "link", "root", "subject-of-eve")
    go(Client(), "subject-of-ann")
    User.objects.filter(username="ann").update(is_superuser=True)
    assert "superuser" in go(Client(), "subject-of-ann").content.decode()
    User.objects.filter(username="ann").update(is_superuser=False, is_active=False)
    assert "blocked" in go(Client(), "subject-of-ann").content.decode()


def test_a_name_that_no_account_can_have_is_said() -> None:
    answer = go(Client(), "subject-of-odd")
    assert answer.status_code == 403
    assert "preferred_username" in answer.content.decode()


def test_an_answer_is_good_once_and_in_its_own_browser() -> None:
    client, other = Client(), Client()
    with httpx.Client(timeout=30) as browser:
        back = identity_provider.signed_in(browser, to_provider(client), "subject-of-ann", ANSWER)
    address = back.removeprefix("http://testserver")
    assert other.get(address).status_code == 400
    assert client.get(address.replace("state=", "state=x")).status_code == 400
    assert client.get(address).status_code == 302
    assert client.get(address).status_code == 400
    assert "Start again" in client.get("/sign-in/provider/answer/").content.decode()


def test_what_the_provider_refuses_is_said_and_no_code_of_another_verifier_is_taken() -> None:
    client = Client()
    to_provider(client)
    denied = client.get("/sign-in/provider/answer/?error=access_denied&error_description=no <b>way</b>&state=x")
    assert denied.status_code == 403
    assert "access_denied: no &lt;b&gt;way&lt;/b&gt;" in denied.content.decode()
    with httpx.Client(timeout=30) as browser:
        back = identity_provider.signed_in(browser, to_provider(client), "subject-of-ann", ANSWER)
    session = client.session
    for key in begun(session):
        session[key] = {**session[key], "data": {**session[key]["data"], "code_verifier": "x" * 48}}
    session.save()
    answer = client.get(back.removeprefix("http://testserver"))
    assert answer.status_code == 403
    assert "invalid_grant" in answer.content.decode()


@pytest.mark.parametrize("wrong", ["nonce", "client", "issuer"])
def test_a_token_for_another_sign_in_client_or_issuer_does_not_verify(settings: Settings, wrong: str) -> None:
    client = Client()
    with httpx.Client(timeout=30) as browser:
        back = identity_provider.signed_in(browser, to_provider(client), "subject-of-ann", ANSWER)
    if wrong == "nonce":
        session = client.session
        for key in begun(session):
            session[key] = {**session[key], "data": {**session[key]["data"], "nonce": "another"}}
        session.save()
    known = provider._client()
    changed = {"issuer": "http://elsewhere"} if wrong == "issuer" else {}
    with mock.patch.dict(known.server_metadata, changed):
        parse = known.parse_id_token
        if wrong == "client":

            def as_another(token: Any, **options: Any) -> Any:
                with mock.patch.object(known, "client_id", "another"):
                    return parse(token, **options)

            with mock.patch.object(known, "parse_id_token", as_another):
                answer = client.get(back.removeprefix("http://testserver"))
        else:
            answer = client.get(back.removeprefix("http://testserver"))
    assert answer.status_code == 403
    assert "does not verify" in answer.content.decode()
    assert not User.objects.exists()


def test_what_cannot_be_recorded_is_not_done() -> None:
    with mock.patch("ami_headend.signin.federated.chain.record", side_effect=AuditError("no key")):
        answer = go(Client(), "subject-of-ann")
    assert answer.status_code == 503
    assert not User.objects.exists()


def test_an_act_needs_a_proof_at_the_provider_and_goes_on_with_what_was_sent(settings: Settings) -> None:
    client, browser = Client(), httpx.Client(timeout=30)
    settings.OIDC_ROLES = {"meter team": roles.ADMINISTRATOR}
    with browser:
        back = identity_provider.signed_in(browser, to_provider(client), "subject-of-ann", ANSWER)
        client.get(back.removeprefix("http://testserver"))
        sent = {"name": "DCU-7", "is_active": "on"}
        add = reverse("admin:concentrators_concentrator_add")
        with after(settings.STEP_UP_S + 1):
            asked = client.post(add, sent)
            assert asked.status_code == 403
            (way,) = re.findall(r'href="(/sign-in/provider/[^"]+)"', asked.content.decode())
            # A password proves nothing here, even if the account had one.
            assert client.post(add, sent | {"step_up_proof": "a long enough password"}).status_code == 403
            to = to_provider(client, "?" + way.partition("?")[2].replace("&amp;", "&"))
            assert parse_qs(urlsplit(to).query)["prompt"] == ["login"]
            back = identity_provider.signed_in(browser, to, "subject-of-ann", ANSWER)
            confirmed = client.get(back.removeprefix("http://testserver"))
            assert confirmed["Location"] == "/sign-in/confirm/"
            page = client.get("/sign-in/confirm/").content.decode()
            assert f'action="{add}"' in page
            assert 'name="name" value="DCU-7"' in page
            assert client.get("/sign-in/confirm/").status_code == 302  # shown once
            assert client.post(add, sent).status_code == 302


def test_another_person_at_the_provider_proves_nothing(settings: Settings) -> None:
    client = Client()
    go(client, "subject-of-ann")
    with after(settings.STEP_UP_S + 1):
        answer = go(client, "subject-of-kim", "?confirm=1")
        assert answer.status_code == 403
        assert "just proven" in answer.content.decode()
        assert client.get(ACCOUNT).context["user"].get_username() == "ann"


def test_a_session_of_a_provider_ends_with_it(settings: Settings) -> None:
    client = Client()
    go(client, "subject-of-ann")
    assert [row.account.username for row in sessions.of_account(User.objects.get()) if row.account] == ["ann"]
    settings.OIDC_ISSUER = "https://another.example"
    assert not is_signed_in(client)
    assert Session.objects.filter(account__username="ann").count() == 0


def signed_out(client: Client, told: Told, settings: Settings, login: str = "subject-of-ann") -> str:
    """Sign in, and sign out at the provider; give the token that it posts."""
    told.tokens.clear()
    with httpx.Client(timeout=30) as browser:
        back = identity_provider.signed_in(browser, to_provider(client), login, ANSWER)
        client.get(back.removeprefix("http://testserver"))
        identity_provider.sign_out(browser, settings.OIDC_ISSUER)
    [token] = told.tokens
    return token


def post_logout(token: str) -> Any:
    return Client(enforce_csrf_checks=True).post("/sign-in/provider/logout/", {"logout_token": token})


def test_whoever_signs_out_at_the_provider_is_signed_out_here(settings: Settings, told: Told) -> None:
    here, elsewhere, kim = Client(), Client(), Client()
    go(elsewhere, "subject-of-ann")  # another session at the provider
    go(kim, "subject-of-kim")
    token = signed_out(here, told, settings)
    assert all(is_signed_in(client) for client in (here, elsewhere, kim))
    answer = post_logout(token)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "no-store" in answer["Cache-Control"]
    assert [is_signed_in(client) for client in (here, elsewhere, kim)] == [False, True, True]
    assert Session.objects.filter(account__username="ann", provider_session="").count() == 0
    record = AuditRecord.objects.filter(act="user.log_out").get()
    assert (record.actor, record.subject) == ("OpenID provider", {"name": "ann", "sessions": 1})
    assert post_logout(token).status_code == 200  # again: there is nothing left to end
    assert AuditRecord.objects.filter(act="user.log_out").count() == 1


def test_a_logout_that_does_not_verify_or_cannot_be_recorded_ends_nothing(settings: Settings, told: Told) -> None:
    client = Client()
    token = signed_out(client, told, settings)
    head, body, signature = token.split(".")
    other = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    text = base64.urlsafe_b64encode(b'"alg"').decode().rstrip("=")
    for bad in (
        "",
        "x",
        f"{text}.{body}.{signature}",
        f"{head}.{body}.{signature[::-1]}",
        f"{other}.{body}.",
        f"{head}.{head}.{signature}",
    ):
        answer = post_logout(bad)
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_request"
    settings.OIDC_CLIENT_ID = "another"
    assert "another client" in post_logout(token).json()["error_description"]
    settings.OIDC_CLIENT_ID = identity_provider.CLIENT_ID
    with mock.patch("ami_headend.signin.federated.chain.record", side_effect=AuditError("no key")):
        assert post_logout(token).status_code == 503
    assert is_signed_in(client)


def test_a_logout_of_a_subject_ends_its_sessions_and_none_with_a_password(settings: Settings) -> None:
    by_provider, by_password = Client(), Client()
    go(by_provider, "subject-of-ann")
    ann = User.objects.get(username="ann")
    by_password.force_login(ann, "django.contrib.auth.backends.ModelBackend")
    assert federated.log_out(LoggedOut("", "another session", "1"), "", timezone.now()) == 0
    assert federated.log_out(LoggedOut("nobody", "", "2"), "", timezone.now()) == 0
    assert federated.log_out(LoggedOut("subject-of-kim", "another session", "3"), "", timezone.now()) == 0
    assert federated.log_out(LoggedOut("subject-of-ann", "", "4"), "", timezone.now()) == 1
    assert [row.issuer for row in Session.objects.filter(account=ann)] == [""]


@pytest.mark.parametrize("answer", ["down", "rubbish", "another", "no endpoint", "plain pkce"])
def test_a_provider_that_is_down_or_not_itself_leaves_the_password(settings: Settings, answer: str) -> None:
    configure(settings, settings.OIDC_ISSUER)
    described = httpx.get(provider.discovery_url()).json()
    changed: dict[str, Any] = {
        "another": {**described, "issuer": "https://elsewhere.example"},
        "no endpoint": {name: value for name, value in described.items() if name != "token_endpoint"},
        "plain pkce": {**described, "code_challenge_methods_supported": ["plain"]},
    }
    if answer == "down":
        settings.OIDC_ISSUER = "http://127.0.0.1:9"
    elif answer == "rubbish":
        settings.OIDC_ISSUER += "/nothing"
    else:
        patched = mock.patch.object(requests.Session, "send", side_effect=lambda *_, **__: _json(changed[answer]))
        patched.start()
    try:
        client = Client()
        page = client.get("/sign-in/provider/")
        assert page.status_code == 503
        assert "Utility Login does not answer as it should" in page.content.decode()
        well, found, to_do = neighbours.sign_in_provider()
        assert not well
        assert "/.well-known/openid-configuration" in to_do
        assert found.startswith(settings.OIDC_ISSUER)
    finally:
        mock.patch.stopall()
    member("someone", roles.OPERATOR)
    give_password(client, "someone")
    assert is_signed_in(client)


def _json(body: Any) -> Any:
    answer = requests.Response()
    answer.status_code = 200
    answer.json = lambda **_: body  # type: ignore[method-assign]
    return answer


def test_the_doctor_and_the_command_ask_the_provider(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert neighbours.sign_in_provider()[0] is True
    call_command("single_sign_on", "check")
    assert f"{settings.OIDC_ISSUER} answers" in capsys.readouterr().out


def test_the_button_shows_and_passwords_can_be_turned_off(settings: Settings) -> None:
    client = Client()
    page = client.get(f"{LOGIN}?next=/admin/meters/").content.decode()
    assert "Sign in with Utility Login" in page
    assert "/sign-in/provider/?next=%2Fadmin%2Fmeters%2F" in page
    assert 'name="password"' in page
    settings.PASSWORD_SIGN_IN, settings.BREAK_GLASS_ACCOUNT = False, "glass"
    page = client.get(LOGIN).content.decode()
    assert 'name="password"' not in page
    assert 'name="password"' in client.get(f"{LOGIN}?password=1").content.decode()
    member("someone", roles.OPERATOR)
    member("glass", roles.OPERATOR)
    give_password(client, "someone")
    assert not is_signed_in(client)
    basic = {"authorization": "Basic " + base64.b64encode(b"someone:a long enough password").decode()}
    api = Client().get("/api/v1/readings", headers=basic)
    assert api.status_code == 401
    assert "turned off" in api.json()["detail"]
    assert authenticate(RequestFactory().post(LOGIN), username="someone", password=PASSWORD) is None
    give_password(client, "glass")
    assert is_signed_in(client)
    assert {(SignInOutcome.PASSWORDS_OFF, "someone"), (SignInOutcome.BREAK_GLASS, "glass")} <= set(outcomes())


@pytest.mark.unconfigured
def test_without_a_provider_there_is_no_button_and_no_way(settings: Settings) -> None:
    client = Client()
    assert "Sign in with" not in client.get(LOGIN).content.decode()
    assert client.get("/sign-in/provider/").status_code == 404
    assert client.get("/sign-in/provider/answer/?code=x&state=y").status_code == 404
    assert neighbours.sign_in_provider()[0] is True


@pytest.mark.unconfigured
@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ({"PASSWORD_SIGN_IN": False}, 50),
        ({"OIDC_ISSUER": "http://idp.example"}, 51),
        ({"OIDC_CLIENT_ID": ""}, 52),
        ({"OIDC_SCOPES": "profile"}, 53),
        ({"OIDC_ROLES": {}}, 54),
        ({"OIDC_ROLES": {"x": "king"}}, 54),
        ({}, 0),
    ],
)
def test_settings_that_let_nobody_in_stop_the_start(settings: Settings, changed: dict[str, Any], number: int) -> None:
    configure(settings, "https://idp.example")
    for name, value in changed.items():
        setattr(settings, name, value)
    found = {message.id for message in check_settings(None) if message.id and message.id.startswith("ami_headend.E05")}
    assert found == ({f"ami_headend.E{number:03}"} if number else set())


@pytest.mark.parametrize(
    ("claims", "path", "found"),
    [
        ({"groups": ["a", 1, "b"]}, "groups", ["a", "b"]),
        ({"groups": "a"}, "groups", ["a"]),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"https://x.example/roles": ["a"]}, "https://x.example/roles", ["a"]),
        ({"realm_access": "x"}, "realm_access.roles", []),
        ({}, "groups", []),
    ],
)
@pytest.mark.unconfigured
def test_claims_are_read_in_any_form(claims: dict[str, Any], path: str, found: list[str]) -> None:
    assert federated.values_of(claims, path) == found
