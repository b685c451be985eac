"""A request with a token: who gets in, what a refusal says (RFC 6750), what it costs, what is recorded."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.models import ApiToken
from ami_headend.core import bearer, rate_limits
from concentrators.fleet import tokens as concentrator_tokens
from concentrators.models import Concentrator
from keyvault.audit.chain import Actor
from meters.models import HouseholdAccess

pytestmark = pytest.mark.django_db

READINGS = "/api/v1/readings"
ANN = Actor("ann", "")


@pytest.fixture(autouse=True)
def _emptied() -> None:
    """Redis outlives the rows of a test."""
    rate_limits.limiter().storage.reset()


@pytest.fixture
def made() -> tokens.Made:
    return tokens.make(ANN, "billing", ["readings"], 30, timezone.now())


def ask(secret: str, address: str = READINGS, **headers: str) -> Any:
    return Client().get(address, headers={"authorization": f"Bearer {secret}", **headers})


def refused(answer: Any) -> str:
    """Why a token was refused: the same in the problem and in the challenge."""
    assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")
    why = str(answer.json()["detail"])
    challenge = f'Bearer realm="ami-headend", error="invalid_token", error_description="{why}"'
    assert answer["WWW-Authenticate"] == challenge
    return why


def test_a_token_reads_and_is_recorded_by_name(made: tokens.Made) -> None:
    assert ask(made.secret).status_code == 200
    assert HouseholdAccess.objects.get().account == "token:billing"
    made.token.refresh_from_db()
    assert made.token.last_used_from == "127.0.0.1"


def test_each_refusal_says_why(made: tokens.Made) -> None:
    token, first = made
    assert "unknown" in refused(ask("ami_nonsense"))
    assert "unknown" in refused(ask(""))
    second = tokens.rotate(ANN, token.pk, 30, timedelta(hours=1), timezone.now()).secret
    assert ask(first).status_code == ask(second).status_code == 200
    token.refresh_from_db()
    assert token.previous_used_at is not None
    ApiToken.objects.update(previous_until=timezone.now())
    assert "rotated" in refused(ask(first))
    ApiToken.objects.update(expires_at=timezone.now())
    assert "expired" in refused(ask(second))
    tokens.revoke(ANN, token.pk, timezone.now())
    assert "revoked" in refused(ask(second))


def test_a_token_of_another_cell_is_sent_there(settings: Settings) -> None:
    settings.CELL = "a"
    token, secret = tokens.make(ANN, "billing", ["readings"], 30, timezone.now())
    assert secret.startswith("ami_a_")
    assert ask(secret).status_code == 200
    settings.CELL = "bb"
    assert ask(secret).status_code == 200  # as after a split
    for other in (bearer.with_checksum(bearer.new(bearer.PROGRAM, "a")), secret.replace("ami_a_", "ami_c_")):
        answer = ask(other)
        is_whole = bearer.is_whole(other)
        assert answer.status_code == (421 if is_whole else 401)
        assert ("is of cell a, and this is cell bb" in answer.json()["detail"]) is is_whole
    assert "58 characters and begins with ami_bb_" in refused(ask("ami_nonsense"))
    tokens.revoke(ANN, token.pk, timezone.now())
    answers = [ask(secret), ask(bearer.with_checksum(bearer.new(bearer.PROGRAM, "a")))]
    assert [answer.status_code for answer in answers] == [421, 421]
    assert answers[0].content == answers[1].content  # whether it was known here or not
    settings.CELL = "a"
    assert "revoked" in refused(ask(secret))


def test_neither_kind_stands_for_the_other(made: tokens.Made) -> None:
    of_concentrator = concentrator_tokens.issue(Concentrator.objects.create(name="DCU-1"))
    assert "concentrator" in refused(ask(of_concentrator))
    answer = ask(made.secret, "/api/v1/commands")
    assert answer.status_code == 401
    assert "not of a program" in answer.json()["detail"]
    # Not even if its digest stood among the others.
    ApiToken.objects.update(digest=bearer.digest(of_concentrator))
    refused(ask(of_concentrator))


def test_without_a_token_both_ways_in_are_named() -> None:
    answer = Client().get(READINGS)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="ami-headend", Basic realm="ami-headend"'


def test_a_bad_token_is_not_saved_by_a_session(made: tokens.Made) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(READINGS).status_code == 200
    assert client.get(READINGS, headers={"authorization": "Bearer ami_nonsense"}).status_code == 401


def test_a_token_opens_no_page_and_no_metrics(made: tokens.Made) -> None:
    for address in ("/admin/", "/admin/readings/", "/metrics"):
        assert ask(made.secret, address).status_code in (302, 401)


def test_authentication_costs_one_statement(made: tokens.Made) -> None:
    client, session = Client(headers={"authorization": f"Bearer {made.secret}"}), Client()
    session.force_login(User.objects.create_superuser("root"))
    client.get(READINGS)

    def statements(one: Client) -> list[str]:
        with CaptureQueriesContext(connection) as counted:
            assert one.get(READINGS).status_code == 200
        return [query["sql"] for query in counted]

    by_token = statements(client)
    assert sum("api_tokens_apitoken" in sql for sql in by_token) == 1
    assert len(by_token) == len(statements(client)) <= len(statements(session))


def test_each_token_has_a_rate_of_its_own(made: tokens.Made, settings: Settings) -> None:
    settings.API_TOKEN_RATE = "2/hour"
    other = tokens.make(ANN, "mdm", ["readings"], 30, timezone.now()).secret
    answers = [ask(made.secret) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[-1]["Retry-After"]) <= 3600
    assert ask(other).status_code == 200
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert {client.get(READINGS).status_code for _ in range(4)} == {200}


def test_the_secret_is_in_one_answer_alone() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    body = {"name": "mdm", "scopes": ["feed", "readings"], "days": 7}
    answer = client.post("/api/v1/tokens", body, content_type="application/json")
    assert answer.status_code == 201
    told = answer.json()
    assert ask(told["secret"]).status_code == 200
    listed = client.get("/api/v1/tokens")
    assert told["secret"] not in listed.content.decode()
    (one,) = listed.json()["results"]
    assert (one["name"], one["scopes"], one["state"]) == ("mdm", ["readings", "feed"], "valid")
    address = f"/api/v1/tokens/{told['number']}"
    again = client.post(f"{address}/rotation", {"overlap_hours": 0}, content_type="application/json").json()
    assert "rotated" in refused(ask(told["secret"]))
    assert ask(again["secret"]).status_code == 200
    assert client.delete(address).status_code == 204
    assert "revoked" in refused(ask(again["secret"]))
    assert client.delete(address).status_code == 404
    assert client.post(f"{address}/rotation", {}, content_type="application/json").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "mdm", "scopes": []},
        {"name": "mdm", "scopes": ["everything"]},
        {"name": "mdm", "scopes": ["feed"], "days": 10**30},
        {"name": "a\0b", "scopes": ["feed"]},
        {"scopes": ["feed"]},
        {"name": "billing", "scopes": ["feed"]},
    ],
)
def test_what_cannot_be_made_is_a_problem(made: tokens.Made, body: dict[str, Any]) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    answer = client.post("/api/v1/tokens", body, content_type="application/json")
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert ApiToken.objects.count() == 1
