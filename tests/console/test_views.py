"""Saved views of list pages, and exports of what their filters show."""

import csv
import io
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts.models import Alert, Rule
from ami_headend.console import list_exports
from ami_headend.console.lists import LISTS
from ami_headend.models import SavedView
from ami_headend.signin import roles
from concentrators.fleet import groups as acts
from concentrators.fleet.groups import Members
from concentrators.models import IntervalTotal
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.models import Place, Register
from meters.readings.obis import LOAD_PROFILE
from meters.registry import lifecycle
from meters.registry.groups import parse
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def act(client: Client, **body: Any) -> str:
    answer = client.post(reverse("admin:saved-views"), {"page": "meters", **body}, follow=True)
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


def test_a_view_is_saved_opened_and_deleted() -> None:
    client = person(roles.OPERATOR)
    said = act(client, act="save", name=" My silent ", query="health=silent&scheme=ccm")
    assert "View My silent is saved." in said
    view = SavedView.objects.get()
    assert (view.name, view.query) == ("My silent", "health=silent&scheme=ccm")
    assert f'href="?view={view.pk}" aria-current="page"' in said
    opened = client.get(reverse("admin:meters"), {"view": view.pk})
    assert opened.url == reverse("admin:meters") + "?health=silent&scheme=ccm"  # type: ignore[attr-defined]
    assert "look" in act(client, act="save", name="my SILENT", query="")
    assert "cannot be blank" in act(client, act="save", name="", query="")
    assert "View My silent is deleted." in act(client, act="delete", view=view.pk)
    gone = client.get(reverse("admin:meters"), {"view": view.pk}, follow=True)
    assert "There is no such view any more" in gone.content.decode()


def test_a_view_whose_filter_is_gone_is_shown_without_it() -> None:
    client = person(roles.OPERATOR)
    act(client, act="save", page="concentrators", name="old", query="colour=red&state=active&sort=-weight")
    answer = client.get(reverse("admin:concentrators"), {"view": SavedView.objects.get().pk}, follow=True)
    assert answer.redirect_chain[-1][0].endswith("?state=active")
    assert "is shown without colour, the order by -weight, which this list no longer has" in answer.content.decode()
    act(client, act="save", name="grouped", query="group=district:Gone")
    answer = client.get(reverse("admin:meters"), {"view": SavedView.objects.get(name="grouped").pk}, follow=True)
    assert "There is no group district:Gone." in answer.content.decode()


def test_an_administrator_shares_a_view_with_a_role() -> None:
    admin, operator, auditor = (person(role) for role in (roles.ADMINISTRATOR, roles.OPERATOR, roles.AUDITOR))
    act(admin, act="save", name="all of DCU-1", query="search=DCU-1")
    view = SavedView.objects.get()
    assert "all of DCU-1" not in operator.get(reverse("admin:meters")).content.decode()
    assert "is shared with the role operator" in act(admin, act="share", view=view.pk, role=roles.OPERATOR)
    assert "all of DCU-1" in operator.get(reverse("admin:meters")).content.decode()
    assert "all of DCU-1" not in auditor.get(reverse("admin:meters")).content.decode()
    for client, body, status in (
        (operator, {"act": "delete"}, 403),
        (operator, {"act": "share", "role": roles.AUDITOR}, 403),
        (auditor, {"act": "delete"}, 404),
        (admin, {"act": "share", "role": "nobody"}, 404),
        (admin, {"act": "burn"}, 403),
    ):
        answer = client.post(reverse("admin:saved-views"), {"page": "meters", "view": view.pk, **body})
        assert answer.status_code == status
    assert AuditRecord.objects.get(act="saved_view.share").subject["role"] == "operator"
    Group.objects.get(name=roles.OPERATOR).delete()
    assert not SavedView.objects.exists()


def test_nobody_saves_views_of_pages_that_he_may_not_see() -> None:
    auditor = person(roles.AUDITOR)
    for page in ("places", "wave", "nowhere"):
        answer = auditor.post(reverse("admin:saved-views"), {"page": page, "act": "save", "name": "x", "query": ""})
        assert answer.status_code == 403
    assert {"meters", "places", "concentrators", "failures", "readings", "audit", "groups"} <= set(LISTS)


def saved(client: Client, name: str, **query: str) -> list[dict[str, str]]:
    answer = client.get(reverse(f"admin:{name}"), {"export": "csv", **query})
    assert answer.status_code == 200
    assert f'filename="{name}.csv"' in answer["Content-Disposition"]
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def fleet() -> None:
    actor = Actor("ann", "test")
    meters = [MeterFactory.create(serial_number=f"S{n}", name="=1+1") for n in range(3)]
    place = Place.objects.create(name="House 1", address="Mill Lane 4")
    lifecycle.install(meters[0], place, NOW)
    concentrator = ConcentratorFactory.create(name="DCU-1")
    acts.put(acts.make(parse("leaky"), actor), Members([meters[1].pk], [], [concentrator.pk]), actor)


def test_an_export_has_what_the_filters_show(fleet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_exports, "BATCH", 2)  # so that it takes several pages
    client = person(roles.OPERATOR)
    rows = saved(client, "meters")
    assert [row["serial_number"] for row in rows] == ["S0", "S1", "S2"]
    assert rows[0]["name"] == "'=1+1"  # no formula of a spreadsheet
    assert [row["serial_number"] for row in saved(client, "meters", group="leaky")] == ["S1"]
    assert [row["name"] for row in saved(client, "concentrators", group="leaky")] == ["DCU-1"]
    assert [(row["name"], row["meters"]) for row in saved(client, "groups")] == [("leaky", "1")]
    (house,) = saved(client, "places")
    assert (house["address"], house["meter"]) == ("Mill Lane 4", "S0")
    assert not AuditRecord.objects.filter(act="list.export", subject__list="meters").exists()
    assert AuditRecord.objects.get(act="list.export").subject == {"list": "places", "filters": "", "rows": 1}
    answer = client.get(reverse("admin:meters"), {"export": "parquet"})
    table = pq.read_table(io.BytesIO(b"".join(answer.streaming_content)))  # type: ignore[attr-defined]
    assert table.column("serial_number").to_pylist() == ["S0", "S1", "S2"]


def test_alerts_and_sums_of_any_size_are_exported() -> None:
    rule = Rule.objects.create(name="quiet", condition="silent_meter")
    times = {"severity": 20, "opened_at": NOW, "seen_at": NOW}
    for subject, resolved_at in (("S1", None), ("S2", NOW)):
        Alert.objects.create(
            rule=rule, subject_kind="meter", subject=subject, summary="x", resolved_at=resolved_at, **times
        )
    client = person(roles.OPERATOR)
    assert [row["subject"] for row in saved(client, "alerts")] == ["S1"]
    assert [row["subject"] for row in saved(client, "alerts", state="ended")] == ["S2"]
    key = {"register": Register.objects.get(obis_code=LOAD_PROFILE), "interval_minutes": 30, "interval_start": NOW}
    concentrator = ConcentratorFactory.create()
    IntervalTotal.objects.create(concentrator=concentrator, value_sum=2**64, meters_counted=3, **key)
    (total,) = saved(client, "interval_totals")
    assert total["value_sum"] == str(2**64)


@pytest.mark.parametrize(
    "name", ["masked_totals", "readings", "interval_totals", "failure_tallies", "failures", "failure-groups"]
)
def test_every_list_can_be_exported(name: str) -> None:
    assert saved(person(roles.OPERATOR), name) == []
    assert "export=csv" in person(roles.OPERATOR).get(reverse(f"admin:{name}")).content.decode()


def test_the_audit_list_is_exported_by_who_may_export_the_chain() -> None:
    (row,) = saved(person(roles.AUDITOR), "audit")
    assert (row["act"], row["actor"]) == ("list.export", "auditor-0")
    assert AuditRecord.objects.get().act == "list.export"
    of_the_admin = reverse("admin:model-list", args=["keyvault.auditrecord"])
    assert person(roles.AUDITOR).get(of_the_admin, {"export": "csv"}).status_code == 404
    listed = person(roles.AUDITOR).get(reverse("admin:keyvault_auditrecord_changelist")).content.decode()
    assert of_the_admin not in listed


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"export": "xls"}, "the format is one of csv, parquet"),
        ({"export": "csv", "group": "nowhere"}, "correct the filters first"),
        ({"export": "csv"}, "more than 1 rows match"),
    ],
)
def test_what_cannot_be_exported_is_said(
    fleet: None, monkeypatch: pytest.MonkeyPatch, query: dict[str, str], said: str
) -> None:
    monkeypatch.setattr(list_exports, "ROWS_MAX", 1)
    answer = person(roles.OPERATOR).get(reverse("admin:meters"), query, follow=True)
    assert said in answer.content.decode()


def test_an_export_that_cannot_be_audited_is_not_made(fleet: None, settings: Any, tmp_path: Any) -> None:
    settings.MASTER_KEY_FILE = tmp_path / "none"
    answer = person(roles.OPERATOR).get(reverse("admin:places"), {"export": "csv"}, follow=True)
    assert "Nothing was exported: it cannot be audited" in answer.content.decode()


def test_a_list_of_the_admin_is_exported_as_it_is_shown(fleet: None) -> None:
    client = person(roles.OPERATOR)
    url = reverse("admin:model-list", args=["meters.installation"])
    answer = client.get(url, {"export": "csv"})
    (row,) = csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode()))  # type: ignore[attr-defined]
    assert (row["meter"], row["place"]) == ("S0", "House 1")
    assert AuditRecord.objects.get(act="list.export").subject["list"] == "meters-installation"
    none = client.get(url, {"export": "csv", "group": "leaky"})
    assert len(b"".join(none.streaming_content).splitlines()) <= 1  # type: ignore[attr-defined]
    assert (
        f"{url}?group=leaky&amp;export=csv"
        in client.get(reverse("admin:meters_installation_changelist"), {"group": "leaky"}).content.decode()
    )
    assert client.get(url, {"export": "csv", "group": "nowhere"}).status_code == 400
    assert client.get(url, {"export": "csv", "colour": "red"}).status_code == 400
    for label, status in (("meters.nothing", 404), ("auth.user", 403), ("x", 404)):
        assert client.get(reverse("admin:model-list", args=[label]), {"export": "csv"}).status_code == status
