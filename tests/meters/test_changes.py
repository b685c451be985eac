"""What people change of meters, places and registers is in the audit chain, without what tells of households."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.models import Meter, MeterStatus, Place, Register
from meters.registry import changes, lifecycle
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "10.0.0.1")
AT = {"at_0": "2040-01-01", "at_1": "00:00:00"}
SECRETS = ("Smith", "Elm Street", "C-17", "47.1")


def told() -> list[tuple[str, dict[str, Any]]]:
    rows = AuditRecord.objects.order_by("number").values_list("act", "subject")
    assert not any(secret in str(row) for row in rows for secret in SECRETS)
    return list(rows)


def test_a_place_is_told_by_number_and_fields(admin_client: Client) -> None:
    form = {"name": "Smith", "address": "Elm Street 1", "customer_reference": "C-17", "latitude": "", "longitude": ""}
    assert admin_client.post("/admin/meters/place/add/", form).status_code == 302
    place = Place.objects.get()
    url = f"/admin/meters/place/{place.pk}"
    assert admin_client.post(f"{url}/change/", {**form, "address": "Elm Street 2"}).status_code == 302
    assert admin_client.post(f"{url}/change/", {**form, "address": "Elm Street 2"}).status_code == 302  # nothing new
    coordinates = {"latitude": "47.1", "longitude": "8.5"}
    patched = admin_client.patch(f"/api/v1/places/{place.pk}", coordinates, content_type="application/json")
    assert patched.status_code == 200
    assert admin_client.post(f"{url}/delete/", {"post": "yes"}).status_code == 302
    made = admin_client.post("/api/v1/places", {"name": "Smith"}, content_type="application/json")
    assert made.status_code == 201
    assert told() == [
        ("place.add", {"place": place.pk}),
        ("place.change", {"place": place.pk, "fields": ["address"]}),
        ("place.change", {"place": place.pk, "fields": ["latitude", "longitude"]}),
        ("place.remove", {"place": place.pk}),
        ("place.add", {"place": made.json()["id"]}),
    ]
    assert {*AuditRecord.objects.values_list("actor", flat=True)} == {"admin"}


def test_a_register_is_told_with_its_values(admin_client: Client) -> None:
    register = Register.objects.get(obis_code="1-0:1.29.0")
    form = {"name": register.name, "minimum": "0", "maximum": "70000"}
    before = register.maximum
    assert admin_client.post(f"/admin/meters/register/{register.pk}/change/", form).status_code == 302
    given = {"obis_code": "1-0:9.8.0", "kind": "cumulative", "unit": "VAh", "scaler": "0", "name": "apparent"}
    assert admin_client.post("/admin/meters/register/add/", given).status_code == 302
    call_command("register", "bounds", "1-0:9.8.0", "--minimum", "0")
    first, *others = told()
    assert first[1]["register"] == "1-0:1.29.0"
    assert first[1]["changed"]["maximum"] == [before, 70_000]
    assert others == [
        ("register.add", {"register": "1-0:9.8.0"}),
        ("register.change", {"register": "1-0:9.8.0", "fields": ["minimum"], "changed": {"minimum": [None, 0]}}),
    ]


def test_the_life_of_a_meter_is_told(admin_client: Client) -> None:
    meter, heir = MeterFactory.create_batch(2)
    place, concentrator = Place.objects.create(name="Smith"), ConcentratorFactory.create()
    url, device, other = f"/admin/meters/meter/{meter.pk}", meter.system_title.hex(), heir.system_title.hex()
    form = {"serial_number": "S-9", "name": "Smith", "mask_group": ""}
    form |= {"commissioned_at_0": "2025-01-01", "commissioned_at_1": "00:00:00"}
    Meter.objects.update(commissioned_at="2025-01-01T00:00:00Z")
    assert admin_client.post(f"{url}/change/", form).status_code == 302
    for act in ("suspend", "resume"):
        assert admin_client.post(f"{url}/{act}/").status_code == 302
    assert admin_client.post(f"{url}/install/", {"place": place.pk, **AT}).status_code == 302
    later = {"at_0": "2041-01-01", "at_1": "00:00:00"}
    assert admin_client.post(f"{url}/exchange/", {"new_meter": heir.pk, **later}).status_code == 302
    assert admin_client.post(f"{url}/retire/", later).status_code == 302
    valid = {"valid_from_0": "2040-01-01", "valid_from_1": "00:00:00"}
    posted = {"meters": [heir.pk], "concentrator": concentrator.pk, **valid}
    assert admin_client.post("/admin/meters/meter/assign/", posted).status_code == 302
    at, from_ = "2041-01-01T00:00:00+00:00", "2040-01-01T00:00:00+00:00"
    first, *others = told()
    assert first[0] == "meter.change"
    assert (first[1]["fields"], [*first[1]["changed"]]) == (["name", "serial_number"], ["serial_number"])
    assert others == [
        ("meter.suspend", {"device": device}),
        ("meter.resume", {"device": device}),
        ("meter.install", {"device": device, "place": place.pk, "at": from_}),
        ("meter.exchange", {"devices": [device, other], "count": 2, "place": place.pk, "at": at}),
        ("meter.retire", {"device": device, "at": at}),
        ("meter.assign", {"device": other, "concentrator": concentrator.name, "at": from_, "changed": 1}),
    ]


def test_an_old_row_takes_no_meter_back_into_service() -> None:
    meter = MeterFactory.create()
    old = Meter.objects.get(pk=meter.pk)
    lifecycle.retire(meter, timezone.now())
    old.name = "other"
    changes.change(ANN, old, ["name"])
    assert Meter.objects.values_list("name", "status").get() == ("other", MeterStatus.RETIRED)


def test_a_row_that_changes_still_takes_what_points_at_it() -> None:
    """Whoever has recorded an act may store commands to the meter yet: a stronger lock would lock the two out."""
    meter = MeterFactory.create()
    meter.name = "other"
    with CaptureQueriesContext(connection) as queries:
        changes.change(ANN, meter, ["name"])
    (locking,) = [query["sql"] for query in queries if "meters_meter" in query["sql"] and " FOR " in query["sql"]]
    assert locking.endswith("FOR NO KEY UPDATE")


def test_what_cannot_be_recorded_is_not_done(admin_client: Client, settings: Settings, tmp_path: Path) -> None:
    meter, place = MeterFactory.create(), Place.objects.create(name="Smith")
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    form = {"name": "Jones", "address": "", "customer_reference": "", "latitude": "", "longitude": ""}
    for page, posted in ((f"place/{place.pk}/change", form), (f"place/{place.pk}/delete", {"post": "yes"})):
        text = admin_client.post(f"/admin/meters/{page}/", posted, follow=True).content.decode()
        assert "Nothing was changed, because it could not be recorded" in text
    assert admin_client.post(f"/admin/meters/meter/{meter.pk}/suspend/").status_code == 200
    assert Place.objects.get().name == "Smith"
    assert Meter.objects.get().status == MeterStatus.COMMISSIONED
    patched = admin_client.patch(f"/api/v1/places/{place.pk}", {"name": "x"}, content_type="application/json")
    assert patched.status_code == 503
