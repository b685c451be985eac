"""The page of tokens of programs: a secret is shown once, a token is rotated and revoked, each after a question."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.api_tokens import tokens
from ami_headend.signin import roles
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from tests.concentrators.statements import counting
from tests.console.people import person

pytestmark = pytest.mark.django_db

SECRET = re.compile(r'id="secret"[^>]*>(ami_[^<]+)<')


@pytest.fixture
def page() -> str:
    return reverse("admin:api-tokens")


@pytest.fixture
def administrator() -> Client:
    return person(roles.ADMINISTRATOR)


def make(name: str) -> tokens.Made:
    return tokens.make(Actor("ann", ""), name, ["readings"], 30, timezone.now())


def secret_of(answer: Any) -> str:
    (secret,) = SECRET.findall(answer.content.decode())
    return str(secret)


def test_a_token_is_made_and_its_secret_shown_once(page: str, administrator: Client) -> None:
    assert "No program has a token" in administrator.get(page).content.decode()
    answer = administrator.post(page, {"act": "make", "name": "billing", "scopes": ["readings", "feed"], "days": 30})
    secret = secret_of(answer)
    assert "no-store" in answer["Cache-Control"]
    assert tokens.find(secret) is not None
    shown = administrator.get(page).content.decode()
    assert secret not in shown
    assert "readings, feed" in shown
    assert secret not in str(dict(administrator.session))
    assert AuditRecord.objects.latest("number").act == "api_token.make"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "billing", "scopes": ["feed"], "days": 30}, "another token has this name"),
        ({"name": "mdm", "scopes": ["feed"], "days": 99_999}, "1 to 366 days"),
        ({"name": "mdm", "days": 30}, "required"),
    ],
)
def test_what_cannot_be_made_is_said(page: str, administrator: Client, given: dict[str, Any], why: str) -> None:
    make("billing")
    answer = administrator.post(page, {"act": "make", **given})
    assert answer.status_code == 200
    assert why in answer.content.decode()
    assert not SECRET.findall(answer.content.decode())


def test_rotating_and_revoking_ask_first(page: str, administrator: Client) -> None:
    token, first = make("billing")
    of_token = {"token": token.pk}
    asked = administrator.post(page, {"act": "rotate", **of_token}).content.decode()
    assert "Hours in which both secrets are good" in asked
    rotated = {"act": "rotate", **of_token, "confirmed": "1", "days": 10, "overlap_hours": 5}
    second = secret_of(administrator.post(page, rotated))
    token.refresh_from_db()
    assert token.takes_previous(timezone.now())
    assert "the secret before is good until" in administrator.get(page).content.decode()
    assert "Revoke this token?" in administrator.post(page, {"act": "revoke", **of_token}).content.decode()
    token.refresh_from_db()
    assert token.revoked_at is None
    done = administrator.post(page, {"act": "revoke", **of_token, "confirmed": "1"}, follow=True).content.decode()
    assert "refused from now on" in done
    for secret in (first, second):
        found = tokens.find(secret)
        assert found is not None
        assert found[0].state(timezone.now()) == "revoked"
    again = administrator.post(page, {"act": "rotate", **of_token}, follow=True).content.decode()
    assert "Nothing was done" in again


def test_an_auditor_looks_and_changes_nothing(page: str) -> None:
    token, _ = make("billing")
    auditor = person(roles.AUDITOR)
    shown = auditor.get(page).content.decode()
    assert "billing" in shown
    assert "A new token" not in shown
    assert auditor.post(page, {"act": "revoke", "token": token.pk, "confirmed": "1"}).status_code == 403


def test_the_number_of_queries_is_constant(page: str, administrator: Client) -> None:
    make("one")
    administrator.get(page)
    counted = []
    for names in (["two"], [f"another {n}" for n in range(10)]):
        for name in names:
            make(name)
        with counting() as statements:
            administrator.get(page)
        counted.append(len(statements))
    assert counted[0] == counted[1]
