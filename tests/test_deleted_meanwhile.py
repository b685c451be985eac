"""A row that somebody else deletes between its form and the act: a sentence, no fault, and nothing that comes back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, connection, transaction
from django.db.models import Model
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts import channels, rules
from ami_headend.alerts.models import Channel, Rule
from ami_headend.core import rows
from ami_headend.core.database_errors import is_gone, is_lost_race
from ami_headend.web.admin import LargeTableAdmin
from concentrators.api.deadlines import DeadlineDetail
from concentrators.commands import guard
from concentrators.fleet import registry
from concentrators.models import CommandLimit, Concentrator, ReadDeadline
from concentrators.totals import read_success
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.api.places import PlaceDetail
from meters.models import Meter, Place, Register
from meters.registry import changes
from tests.test_admin import fill

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "here")
HOLD = rows.hold


def delete(row: Model) -> None:
    """As another process, which left nothing that refers to the row."""
    table, key = row._meta.db_table, row._meta.pk
    assert key is not None
    with connection.cursor() as cursor:
        cursor.execute(f'DELETE FROM "{table}" WHERE "{key.column}" = %s', [row.pk])


def deleted_first(row: Model) -> None:
    delete(row)
    HOLD(row)


def editable() -> list[type[Model]]:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    pages = admin.site._registry.items()
    return [
        model for model, page in pages if page.has_change_permission(request) or page.has_delete_permission(request)
    ]


def filled() -> None:
    fill(1)
    User.objects.get_or_create(username="operator")
    CommandLimit.objects.get_or_create(kind=1, span="hour", account="token:erp", defaults={"most": 1})
    ReadDeadline.objects.get_or_create(name="morning", defaults={"due_time": "07:00", "is_active": False})
    Rule.objects.get_or_create(name="of a test", defaults={"condition": "audit_broken", "severity": 1})


def test_pages_of_every_model_say_it_and_lead_to_the_list(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled()
    monkeypatch.setattr(rows, "hold", deleted_first)
    tried = set()
    for model in editable():
        row = model._default_manager.exclude(**_of_ours(model)).first()
        assert row is not None, model
        names = f"admin:{model._meta.label_lower.replace('.', '_')}"
        for act, given in (("change", {}), ("delete", {"post": "yes"})):
            before = AuditRecord.objects.count()
            with transaction.atomic():
                answer = admin_client.post(reverse(f"{names}_{act}", args=[row.pk]), given)
                acts = AuditRecord.objects.count() - before
                transaction.set_rollback(True)
            if answer.status_code == 403:  # it is never deleted, or never changed
                continue
            assert (answer.status_code, answer["Location"]) == (302, reverse(f"{names}_changelist")), (model, act)
            assert "It was deleted meanwhile: nothing was changed." in str([*get_messages(answer.wsgi_request)][-1])
            assert acts == 0, (model, act)
            tried.add(model)
    assert tried >= {Concentrator, Meter, Place, Register, Rule, Channel, User, CommandLimit, ReadDeadline}


def _of_ours(model: type[Model]) -> dict[str, str]:
    return {"username": "admin"} if model is User else {}


def test_a_page_holds_its_row_until_it_is_stored(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.objects.create(name="Mill Lane 4")
    held: list[Model] = []
    monkeypatch.setattr(rows, "hold", held.append)
    address = reverse("admin:meters_place_change", args=[place.pk])
    admin_client.get(address)
    assert held == []
    assert admin_client.post(address, {"name": "Mill Lane 5"}).status_code == 302
    assert set(held) == {place}


def changed(row: Any, name: str, value: Any) -> Any:
    setattr(row, name, value)
    return row


ACTS: dict[str, tuple[type[Model], Callable[[Any], object]]] = {
    "a place is changed": (Place, lambda row: changes.change(ACTOR, changed(row, "name", "other"), ["name"])),
    "a place is removed": (Place, partial(changes.remove, ACTOR)),
    "a register": (Register, lambda row: changes.change(ACTOR, changed(row, "name", "other"), ["name"])),
    "a concentrator": (Concentrator, lambda row: registry.save_as(ACTOR, changed(row, "name", "other"), {"name"})),
    "a rule is changed": (Rule, lambda row: rules.save(row, ACTOR, timezone.now())),
    "a rule is deleted": (Rule, lambda row: rules.delete(row, ACTOR)),
    "a channel is changed": (Channel, lambda row: channels.save(row, ACTOR, timezone.now())),
    "a channel is deleted": (Channel, lambda row: channels.delete(row, ACTOR, timezone.now())),
    "a limit is changed": (CommandLimit, partial(guard.save_limit, ACTOR)),
    "a limit is deleted": (CommandLimit, partial(guard.delete_limit, ACTOR)),
    "a deadline is changed": (ReadDeadline, partial(read_success.save, ACTOR)),
    "a deadline is removed": (ReadDeadline, partial(read_success.remove, ACTOR)),
    "an update of columns": (Place, lambda row: row.save(update_fields=["name"])),
}


def test_acts_refuse_a_row_that_went_and_bring_none_back() -> None:
    filled()
    for name, (model, act) in ACTS.items():
        before = AuditRecord.objects.count()
        with transaction.atomic():
            row = model._default_manager.all()[0]
            delete(row)
            pk = row.pk
            with pytest.raises((ObjectDoesNotExist, DatabaseError)) as caught, transaction.atomic():
                act(row)
            assert is_gone(caught.value), (name, caught.value)
            assert is_lost_race(caught.value)
            assert not model._default_manager.filter(pk=pk).exists(), name
            assert AuditRecord.objects.count() == before, name
            transaction.set_rollback(True)


def test_over_rest_it_is_a_conflict(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    filled()
    place, deadline = Place.objects.all()[0], ReadDeadline.objects.filter(is_active=False)[0]
    found, update = DeadlineDetail.get_object, PlaceDetail.perform_update

    def found_last(view: DeadlineDetail) -> Any:
        row = found(view)
        delete(row)
        return row

    def updated_late(view: PlaceDetail, serializer: Any) -> None:
        delete(serializer.instance)
        update(view, serializer)

    monkeypatch.setattr(DeadlineDetail, "get_object", found_last)
    monkeypatch.setattr(PlaceDetail, "perform_update", updated_late)
    asked: list[tuple[str, str, Any]] = [
        ("patch", f"/api/v1/places/{place.pk}", {"address": "Mill Lane 5"}),
        ("patch", f"/api/v1/deadlines/{deadline.pk}", {"target_percent": "90"}),
        ("delete", f"/api/v1/deadlines/{deadline.pk}", None),
    ]
    for method, address, body in asked:
        with transaction.atomic():
            answer = getattr(admin_client, method)(address, body, content_type="application/json")
            transaction.set_rollback(True)
        assert (answer.status_code, answer["Content-Type"]) == (409, "application/problem+json"), answer.content
        assert answer.json()["detail"] == "What this is about was deleted meanwhile. Nothing was changed."


def test_every_page_that_changes_rows_holds_them() -> None:
    pages = [admin.site._registry[model] for model in editable()]
    assert [page for page in pages if not isinstance(page, LargeTableAdmin)] == []
    assert {type(page).get_object for page in pages} == {LargeTableAdmin.get_object}
