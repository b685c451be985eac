"""Every address of the REST API stands in the table of scopes, and a token opens what its scope says, nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from ami_headend.api_tokens import tokens
from ami_headend.core import rate_limits
from ami_headend.web import scopes
from ami_headend.web.scopes import NEEDED, Closed, Scope
from keyvault.audit.chain import Actor
from keyvault.models import DeviceKey
from tests.test_doors import REST, _ask, arguments
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.django_db

METHODS = ("get", "post", "put", "patch", "delete")


def patterns(resolver: URLResolver, before: str = "") -> Iterator[tuple[str, URLPattern]]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield from patterns(one, before + str(one.pattern))
        else:
            yield before + str(one.pattern), one


def operations() -> set[tuple[str, str]]:
    """Every address below /api/v1/ with each method that its view has."""
    found = set()
    for path, pattern in patterns(get_resolver()):
        if path.startswith("api/v1/"):
            view: Any = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
            taken = {name for name in METHODS if name in view.http_method_names and hasattr(view, name)}
            found |= {(pattern.name or "", name.upper()) for name in taken}
    return found


def bearer_of(*given: Scope) -> dict[str, str]:
    name = "+".join(given)
    secret = tokens.make(Actor("ann", ""), name, given, 1, timezone.now()).secret
    return {"authorization": f"Bearer {secret}"}


def test_every_operation_stands_in_the_table() -> None:
    assert operations() == set(NEEDED)
    assert len(NEEDED) > 40
    assert {needed for needed in NEEDED.values() if isinstance(needed, Scope)} == set(Scope)


def test_what_stands_in_no_table_is_refused() -> None:
    assert scopes.needed_for("a-new-address", "GET") == []
    assert scopes.needed_for("readings", "DELETE") == []
    assert scopes.needed_for("readings", "HEAD") == scopes.needed_for("readings", "OPTIONS") == [Scope.READINGS]


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_opens_its_addresses_and_no_other(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "django.request")
    rate_limits.limiter().storage.reset()
    client = Client(headers=bearer_of(scope), raise_request_exception=False)
    asked, wrong = set(), []
    for door in REST:
        operation = (door.name, door.method.upper())
        needed = NEEDED.get(operation)
        if needed is None:
            continue
        asked.add(operation)
        answer = _ask(client, door)
        status, challenge = answer.status_code, answer.headers.get("WWW-Authenticate", "")
        if needed is Closed.CONCENTRATORS:
            is_right = status == 401
        elif needed is Closed.PEOPLE:
            is_right = status == 403 and "no scope opens it" in answer.json()["detail"]
        elif needed is scope:
            # Keys are no command of a program, whatever its scope.
            is_right = (status == 403) is (door.body.get("kind") == "set_key") and status != 401
        else:
            is_right = (status, challenge) == (
                403, f'Bearer realm="ami-headend", error="insufficient_scope", scope="{needed}"'
            )  # fmt: skip
            is_right = is_right and f"scope {needed}" in answer.json()["detail"]
        if not is_right or status >= 500:
            wrong.append(f"{operation}: {status} {challenge} {answer.content[:120]!r}")
    assert not wrong, "\n".join(wrong)
    assert asked == set(NEEDED)


@pytest.mark.usefixtures("rows")
def test_a_token_gives_no_command_that_carries_a_key() -> None:
    (address,) = {reverse("meter-commands", args=arguments(door)) for door in REST if door.name == "meter-commands"}
    client = Client(headers=bearer_of(*Scope))
    keys = DeviceKey.objects.count()
    answer = client.post(address, {"kind": "set_key"}, content_type="application/json")
    assert (answer.status_code, answer.json()["detail"]) == (403, "You may not change keys.")
    assert DeviceKey.objects.count() == keys
    given = client.post(address, {"kind": "read_now"}, content_type="application/json")
    assert given.status_code == 201
    assert given.json()[0]["created_by"] == "token:" + "+".join(Scope)


def test_the_document_has_the_same_table() -> None:
    text = (Path(django_settings.BASE_DIR) / "docs/operations/tokens.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    told = {scope: set(re.findall(r"`([A-Z]+) /api/v1/([^`]*)`", line)) for scope, line in rows}
    by_name = {pattern.name: path.removeprefix("api/v1/") for path, pattern in patterns(get_resolver())}
    shown = {
        name: re.sub(r"<(?:\w+:)?(\w+)>", lambda match: "{" + match[1] + "}", path) for name, path in by_name.items()
    }
    for scope in Scope:
        expected = {(method, shown[name]) for (name, method), needed in NEEDED.items() if needed is scope}
        assert told[scope] == expected, scope
