"""The API's description holds for its answers: every answer fits the schema of its operation."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from rest_framework import serializers

from concentrators.models import Command, FeedDelivery, FeedSubscription, MaskedSet, ReadDeadline, RotationWave
from keyvault.models import Approval, FleetKey, MaskAuthority
from meters.group_models import FleetGroup
from meters.models import Meter, Place
from tests.concentrators.fleet import START
from tests.console.test_masked_totals import a_set
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rows")]


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def description(root: Client) -> Any:
    return root.get(reverse("schema"), {"format": "json"}).json()


def as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: what is nullable may be null, and objects have no other fields than those named."""
    if isinstance(node, list):
        return [as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {name: as_json_schema(value) for name, value in node.items() if name != "nullable"}
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") else made


def answers(description: Any) -> Iterator[tuple[str, str, Any]]:
    """Every address that gives JSON to a person, and the schema of its answer."""
    title = bytes(Meter.objects.order_by("pk")[0].system_title).hex()
    ids: dict[str, Any] = {"/api/v1/places/{id}": Place.objects.order_by("pk")[0].pk}
    if not MaskedSet.objects.exists():
        authority = MaskAuthority(name="council", url="http://x", public=bytes(32), pinned_at=START, mac=b"")
        authority.save()
        a_set([authority], 1, total=5, closed_at=START)
    ids["/api/v1/groups/{number}"] = FleetGroup.objects.get_or_create(kind="district", name="North")[0].pk
    ids["/api/v1/held-commands/{number}"] = Approval.objects.order_by("pk")[0].pk
    ids["/api/v1/masked-totals/{set_id}/answers"] = MaskedSet.objects.order_by("pk")[0].pk
    ids["/api/v1/feed/subscriptions/{name}"] = ids["/api/v1/feed/subscriptions/{name}/delivery"] = "billing"
    billing, _ = FeedSubscription.objects.get_or_create(
        name="billing", defaults={"resource": "events", "era": "x", "position": 1, "row": 0, "moved_at": START}
    )
    FeedDelivery.objects.get_or_create(
        subscription=billing,
        defaults={"kind": "webhook", "address": "x", "format": "csv", "rows": 1, "wait_minutes": 1},
    )
    deadline = ReadDeadline.objects.order_by("pk")[0].pk
    ids |= {f"/api/v1/deadlines/{{number}}{rest}": deadline for rest in ("", "/days")}
    wave = RotationWave.objects.order_by("pk")[0].pk
    for path, operations in description["paths"].items():
        content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if "application/json" in content and not path.startswith("/api/v1/uplinks"):
            address = re.sub("{.*?}", str(ids.get(path, wave)), path.replace("{system_title}", title))
            yield path, address, content["application/json"]["schema"]


def check(description: Any, schema: Any, answer: Any) -> None:
    whole = as_json_schema({**schema, "components": description["components"]})
    jsonschema.validate(answer, whole, format_checker=jsonschema.FormatChecker())


def test_every_answer_fits_its_description(description: Any, root: Client) -> None:
    looked_at = set()
    for path, address, schema in answers(description):
        answer = root.get(address)
        assert answer.status_code == 200, path
        check(description, schema, answer.json())
        looked_at.add(path)
    assert {f"/api/v1/{name}" for name in ("meters", "rotations", "failures", "alerts", "keys", "places")} <= looked_at
    assert len(looked_at) >= 12


def test_what_is_null_and_what_is_not_fits_alike(description: Any, root: Client) -> None:
    """A command that nobody fetched and a wave of stored keys, and such that have what those lack."""
    by_path = {path: (address, schema) for path, address, schema in answers(description)}
    address, schema = by_path["/api/v1/meters/{system_title}/commands"]
    command = Command.objects.filter(meter=Meter.objects.order_by("pk")[0])[0]
    concentrator = command.offered_to
    for offered_to in (None, concentrator):
        Command.objects.filter(pk=command.pk).update(offered_to=offered_to)
        found = root.get(address).json()
        assert any((one["concentrator"] is None) is (offered_to is None) for one in found)
        check(description, schema, found)
    address, schema = by_path["/api/v1/rotations/{wave_id}"]
    for fleet_key in (None, FleetKey.objects.all()[0]):
        RotationWave.objects.update(fleet_key=fleet_key)
        wave = root.get(address).json()
        assert (wave["fleet_key"] is None) is (fleet_key is None)
        check(description, schema, wave)


def test_no_field_is_null_in_silence() -> None:
    """Of all serializers: one that falls back to null says that it may be."""

    def everything(of: type[Any]) -> Iterator[type[Any]]:
        for one in of.__subclasses__():
            yield one
            yield from everything(one)

    ours = [
        one
        for one in everything(serializers.Serializer)
        if one.__module__.split(".")[0] in ("concentrators", "meters", "ami_headend")
    ]
    silent = [
        f"{one.__name__}.{name}"
        for one in ours
        for name, field in getattr(one, "_declared_fields", {}).items()
        if field.default is None and not field.allow_null
    ]
    assert len(ours) > 15
    assert not silent


def test_operations_are_grouped(description: Any) -> None:
    described = {tag["name"] for tag in description["tags"]}
    used = {tag for operations in description["paths"].values() for one in operations.values() for tag in one["tags"]}
    assert used == described
