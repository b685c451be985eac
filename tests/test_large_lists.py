"""Lists of the admin over large tables: sorted and searched by indexes, however many rows have one value or none."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import DateTimeField, Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts.models import Channel, Rule
from ami_headend.web.admin import LargeTableAdmin
from keyvault.models import FleetKey
from meters.models import Installation, MeterEvent, Place
from tests.factories import MeterFactory
from tests.plans import plan_of

pytestmark = pytest.mark.django_db

FEW: set[type[Model]] = {Rule, Channel, FleetKey}  # of which there are never many rows


def list_of(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")


def sorted_columns(client: Client) -> Iterator[tuple[type[Model], int, str]]:
    """Each column by which a list can be sorted: its number in addresses, and its field."""
    for model in filter(admin.site.is_registered, apps.get_models()):
        pages = admin.site.get_model_admin(model)
        if isinstance(pages, LargeTableAdmin) and model not in FEW:
            shown = client.get(list_of(model)).context["cl"]
            for number, column in enumerate(shown.list_display):
                if field := shown.get_ordering_field(column):
                    yield model, number, field


def plan(rows: Any) -> list[dict[str, Any]]:
    statement, params = rows.query.sql_with_params()
    return plan_of(statement, params)


@pytest.mark.parametrize("way", ["", "-"])
def test_an_index_gives_the_order_of_each_column(admin_client: Client, way: str) -> None:
    """Rows with one value come by their key, so that they are not gathered first.

    Of one time, or of one system title, there are never many.
    """
    gathered, looked_at = [], 0
    for model, number, name in sorted_columns(admin_client):
        found = admin_client.get(list_of(model), {"o": f"{way}{number}"}).context["cl"].queryset
        kinds = {node["Node Type"] for node in plan(found[:50])}
        field = model._meta.get_field(name)
        is_time = isinstance(field, DateTimeField) and not field.null
        leads_a_key = name in {constraint.fields[0] for constraint in model._meta.total_unique_constraints}
        sorts = {"Sort"} if is_time or leads_a_key else {"Sort", "Incremental Sort"}
        if kinds & sorts:
            gathered.append((model.__name__, name, sorted(kinds)))
        looked_at += 1
    assert looked_at >= 12
    assert not gathered


def test_places_without_a_reference_come_by_their_key(admin_client: Client) -> None:
    places = [Place.objects.create(name=f"MP-{9 - number}") for number in range(4)]
    other = Place.objects.create(name="MP-0", customer_reference="C-1")
    for order, wanted in (("2", [*places, other]), ("-2", [other, *reversed(places)])):
        assert list(admin_client.get(list_of(Place), {"o": order}).context["cl"].queryset) == wanted


@pytest.mark.parametrize("order", ["2.1", "2.-1", "2.9.x", "x.2", "9.2"])
def test_a_list_is_sorted_by_the_first_column_that_is_asked_for(admin_client: Client, order: str) -> None:
    shown = admin_client.get(list_of(Place), {"o": order}).context["cl"]
    assert shown.queryset.query.order_by == ("customer_reference", "pk")


@pytest.mark.parametrize("order", ["9", "x", "-"])
def test_a_list_that_cannot_be_sorted_so_comes_as_usual(admin_client: Client, order: str) -> None:
    assert admin_client.get(list_of(Place), {"o": order}).context["cl"].queryset.query.order_by == ("name",)


def installed(number: int) -> Installation:
    meter = MeterFactory.create(serial_number=f"LGZ{number:05}", name=f"Pump {number}")
    place = Place.objects.create(name=f"MP-{number}", address=f"Mill Lane {number}", customer_reference=f"C-{number}")
    return Installation.objects.create(meter=meter, place=place, installed_at=timezone.now())


@pytest.mark.parametrize("term", ["LGZ00003", "0003", "pump 3", "MP-3", "lane 3", "C-3"])
def test_an_installation_is_found_by_its_meter_and_its_place(admin_client: Client, term: str) -> None:
    rows = [installed(number) for number in range(5)]
    assert list(admin_client.get(list_of(Installation), {"q": term}).context["cl"].queryset) == [rows[3]]


@pytest.mark.parametrize("term", ["LGZ00003", "nothing has this name", "--"])
@pytest.mark.parametrize("model", [Installation, MeterEvent])
def test_rows_of_meters_and_places_are_found_by_indexes(admin_client: Client, model: type[Model], term: str) -> None:
    """Of two conditions, too: neither is asked of every row."""
    found = admin_client.get(list_of(model), {"q": term}).context["cl"].queryset
    statement, params = found.order_by().query.sql_with_params()
    nodes = plan_of(statement, params, "enable_seqscan")
    table = model._meta.db_table
    scans = [node for node in nodes if node.get("Relation Name") == table]
    assert scans
    assert all("Index Cond" in node or node["Node Type"] == "Bitmap Heap Scan" for node in scans), scans
    assert not any("SubPlan" in str(node.get("Filter")) for node in nodes), nodes
