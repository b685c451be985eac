"""Every door of concentrators has a rate and a size; whoever adds one without them fails here."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from pytest_django import Settings

from ami_headend.core import rate_limits
from concentrators.api.authentication import BearerTokenAuthentication
from concentrators.api.concentrator_view import ConcentratorView
from concentrators.api.throttling import RateThrottle
from concentrators.fleet import tokens
from concentrators.models import Concentrator
from tests.concentrators.api.test_api import CBOR_SEQUENCE

pytestmark = pytest.mark.django_db

METHODS = ("get", "post", "put", "patch", "delete")
ARGUMENTS = {"uplink_id": 1, "number": 1}
Door = tuple[str, str, type[ConcentratorView]]  # name, method, view


def patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield from patterns(one)
        else:
            yield one


def doors() -> list[Door]:
    """Every address and method that a concentrator's token opens."""
    found = []
    for pattern in patterns(get_resolver()):
        view: Any = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
        if BearerTokenAuthentication in getattr(view, "authentication_classes", ()):
            found += [(pattern.name or "", method, view) for method in METHODS if hasattr(view, method)]
    return found


DOORS = doors()
IDS = [f"{method} {name}" for name, method, _ in DOORS]


@pytest.fixture(autouse=True)
def emptied(db: None) -> None:
    """Redis outlives the rows of a test."""
    rate_limits.limiter().storage.reset()


@pytest.fixture
def headers(concentrator: Concentrator) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.issue(concentrator)}"}


def ask(door: Door, body: bytes, headers: dict[str, str]) -> Any:
    name, method, _ = door
    resolver = next(one for one in patterns(get_resolver()) if one.name == name and one.lookup_str.startswith("conc"))
    arguments = {key: ARGUMENTS[key] for key in resolver.pattern.converters}
    url = reverse(name, kwargs=arguments)
    content_type = CBOR_SEQUENCE if name == "uplinks" else "application/json"
    return Client().generic(method.upper(), url, body, content_type, headers=headers)


def test_there_are_doors() -> None:
    assert len(DOORS) >= 4


@pytest.mark.parametrize("door", DOORS, ids=IDS)
def test_each_has_a_rate(door: Door, headers: dict[str, str], settings: Settings) -> None:
    view = door[2]
    assert issubclass(view, ConcentratorView)
    assert RateThrottle in view.throttle_classes
    setattr(settings, view.rate.setting, "2/hour")
    answers = [ask(door, b"", headers) for _ in range(3)]
    assert answers[0].status_code != 429
    assert [answer.status_code for answer in answers[1:]] == [answers[0].status_code, 429]
    assert int(answers[2]["Retry-After"]) > 0
    assert answers[2]["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("door", DOORS, ids=IDS)
def test_each_has_a_size(door: Door, headers: dict[str, str]) -> None:
    octets = door[2]().octets_max()
    answer = ask(door, b" " * (octets + 1), headers)
    assert answer.status_code == 413, answer.content
    assert "body" in answer.json()["detail"] or "octets" in answer.json()["detail"]
    assert ask(door, b" " * octets, headers).status_code != 413


def test_a_receipt_needs_some_octets(headers: dict[str, str]) -> None:
    url = reverse("command-receipt", args=[1])
    padded = b'{"result": "delivered"}' + b" " * 2_400_000
    assert Client().post(url, padded, content_type="application/json", headers=headers).status_code == 413
    assert Client().post(url, padded[:400], content_type="application/json", headers=headers).status_code == 404
