"""The description of the API is made once for each form, and is what the generator gives."""

import json
from typing import Any

import pytest
import yaml
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from ami_headend.api import schema


def test_it_is_made_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    schema._document.cache_clear()
    made: list[object] = []
    make: Any = SchemaGenerator.get_schema

    def counted(self: SchemaGenerator, *arguments: object, **options: object) -> object:
        made.append(self)
        return make(self, *arguments, **options)

    monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
    answers = [client.get("/api/schema/") for _ in range(3)]
    # No account is asked for, so that no password is hashed for it either (this test may use no database).
    answers += [client.get("/api/schema/?format=json", headers={"authorization": "Basic eDp5"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len(made) == 2
    assert ".yaml" in answers[0]["Content-Disposition"] or "openapi" in answers[0]["Content-Disposition"]
    described = yaml.safe_load(answers[0].content)
    assert described == json.loads(answers[-1].content)
    assert "/api/v1/uplinks" in described["paths"]
