"""Every list of rows, in console and REST: filtered by group, exported and saved as a view, or it stands here why not.

A new page, list of the admin or address of REST that stands in no line fails the test.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import get_resolver, reverse

from ami_headend.console.lists import LISTS, FilteredPage, ListPage
from ami_headend.console.site import PAGES
from ami_headend.models import SavedView
from ami_headend.web.admin import LargeTableAdmin
from meters.admin_groups import GroupFilter
from meters.group_forms import GroupsField
from meters.group_models import FleetGroup
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db

ONE = "shows one thing, or acts on one"
FORM = "a form, or an address of buttons"
FLEET = "about keys or rules of the whole head-end, not rows of its meters"
SITE = "what the site has defined or whom it lets in: no meter stands behind a row"
HERE = "the list of groups itself"

# Pages without a filter by group.
UNGROUPED_PAGES = {
    **dict.fromkeys(
        ("failure", "meter", "meter-gaps-export", "place", "concentrator", "outage", "group", "alert"), ONE
    ),
    **dict.fromkeys(("push-profile", "acknowledgement", "master-key", "alert-subjects-export"), ONE),
    **dict.fromkeys(("sign-in", "meter-import", "push-profile-new", "failures-acknowledge", "saved-views"), FORM),
    **dict.fromkeys(("compromise", "enrolment-allow", "authority-unpin", "meter-new-key", "key-retire"), FORM),
    **dict.fromkeys(("master-key-destroy", "wave-new", "model-list"), FORM),
    **dict.fromkeys(("keys", "enrolment", "mask-authorities", "approvals", "audit-export", "schemes"), FLEET),
    **dict.fromkeys(("push-profiles", "codes", "api-tokens"), SITE),
    "groups": HERE,
    "audit": "records name what they are of in many ways: there is a filter by meter",
    "waves": "a wave is of many meters: those of one are filtered by group on its page",
    "subscriptions": "of the whole feed; its consumer names groups when it asks, and its delivery may have one",
}
# Lists of the admin without one.
UNGROUPED_LISTS = {
    **dict.fromkeys(("auth.user", "auth.group", "signin.signin", "meters.register", "alerts.channel"), SITE),
    **dict.fromkeys(
        ("concentrators.readdeadline", "concentrators.commandlimit", "keyvault.fleetkey", "keyvault.masterkeyrotation"),
        FLEET,
    ),
    "concentrators.rotationwave": "a wave is of many meters: those of all are the list of meters in waves",
    "keyvault.auditrecord": "records name what they are of in many ways",
}
# Addresses of REST that give rows without one.
UNGROUPED_ADDRESSES = {
    **dict.fromkeys(("agreement-keys", "authorities", "revocations", "clock-corrections"), FLEET),
    **dict.fromkeys(("codes", "push-profiles", "api-tokens"), SITE),
    "groups": HERE,
    **dict.fromkeys(("held-commands", "held-commands-one"), "one act on many meters waits as a whole"),
    **dict.fromkeys(("deadline", "deadlines"), "terms of a deadline, for one group at most; its days are filtered"),
    "rotations": "a wave is of many meters",
    **dict.fromkeys(("feed-subscriptions", "feed-delivery"), "of the whole feed, or of one group, which it says"),
    **dict.fromkeys(("meter", "meter-gaps", "meter-signatures", "meter-commands", "place", "group", "rotation"), ONE),
    **dict.fromkeys(("green-button", "market-document", "masked-total-answers", "feed-subscription"), ONE),
    **dict.fromkeys(("uplink", "commands", "hop-keys", "next-key"), "a concentrator's own, by its token"),
    **dict.fromkeys(("schema", "docs"), "no rows"),
}
# Addresses with a filter by group for rows of one thing, whose own tests ask them.
OF_ONE = {"deadline-days"}
# Lists that are not saved as a file.
NOT_EXPORTED = {
    "alert-subjects": "has an export of its own, of all subjects",
}


def grouped(page: type) -> bool:
    return issubclass(page, FilteredPage) and isinstance(page.form_class.base_fields.get("group"), GroupsField)


def unexplained(found: Mapping[str, bool], exceptions: Mapping[str, str]) -> list[str]:
    """What is neither so nor explained, and what is explained though it is so, or is not there."""
    missing = [name for name, is_so in found.items() if not is_so and name not in exceptions]
    idle = [f"{name} needs no exception" for name in exceptions if found.get(name, True)]
    return missing + idle


def test_every_page_filters_by_group() -> None:
    found = {page.name: grouped(page) for page in PAGES}
    found["deadlines"] = True  # with a form of its own, tested with the page
    assert unexplained(found, UNGROUPED_PAGES) == []


def model_lists() -> dict[str, Any]:
    return {model._meta.label_lower: pages for model, pages in admin.site._registry.items()}


def test_every_list_of_the_admin_filters_by_group() -> None:
    found = {
        label: any(isinstance(one, type) and issubclass(one, GroupFilter) for one in pages.list_filter)
        for label, pages in model_lists().items()
    }
    assert unexplained(found, UNGROUPED_LISTS) == []
    assert all(isinstance(pages, LargeTableAdmin) for pages in model_lists().values())  # has views and an export


def addresses() -> dict[str, bool]:
    """The addresses of REST that can be asked for something, and whether they take groups."""
    found = {}
    for name, ways in get_resolver().reverse_dict.lists():
        if not isinstance(name, str) or not ways[0][0][0][0].startswith("api/"):
            continue
        view = get_resolver().resolve("/" + ways[0][0][0][0] % dict.fromkeys(ways[0][0][0][1], 1)).func
        cls = getattr(view, "cls", None)
        if cls is not None and hasattr(cls, "get"):
            found[name] = "group" in getattr(getattr(cls, "query_class", None), "_declared_fields", {})
    return found


def test_every_address_of_rows_filters_by_group() -> None:
    found = addresses()
    assert len(found) > 40
    assert unexplained(found, UNGROUPED_ADDRESSES) == []


def test_every_list_is_saved_as_a_file() -> None:
    lists = [page for page in PAGES if issubclass(page, ListPage)]
    found = {page.name: page.exported is not ListPage.exported for page in lists}
    assert unexplained(found, NOT_EXPORTED) == []


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def north() -> FleetGroup:
    MeterFactory.create()
    return FleetGroup.objects.create(kind="district", name="North")


def test_each_filter_takes_a_group_and_names_one_that_is_not_there(root: Client, north: FleetGroup) -> None:
    """The statement of each list with a group is run; a group that is not there is said, not passed over."""
    wrong = []
    for name, page in LISTS.items():
        if grouped(page):
            url = reverse(f"admin:{name}")
            there, away = (root.get(url, {"group": group}) for group in ("district:north", "district:South"))
            saved = root.get(url, {"group": "district:North", "export": "csv"})
            if there.status_code != 200 or "There is no group district:South." not in away.content.decode():
                wrong.append(name)
            if issubclass(page, ListPage) and (saved.status_code, saved.get("Content-Type", "")[:8]) != (
                200,
                "text/csv",
            ):
                wrong.append(f"{name} as a file")
    for label in model_lists().keys() - UNGROUPED_LISTS.keys():
        url = reverse(f"admin:{label.replace('.', '_')}_changelist")
        answers = [root.get(url, {"group": group}).status_code for group in ("district:north", "district:South")]
        if answers != [200, 400]:
            wrong.append(f"{label}: {answers}")
    for name, takes_groups in addresses().items():
        if takes_groups and name not in OF_ONE:
            asked = {"day": "2026-11-01"} if name == "completeness-deadlines" else {}
            answers = [
                root.get(reverse(name), {**asked, "group": group}).status_code for group in ("district:North", "South")
            ]
            if answers != [200, 400]:
                wrong.append(f"{name}: {answers}")
    assert wrong == []


@pytest.mark.parametrize("after", ["9" * 30, "0001-01-01T00:00:00+14:00~1", "\N{SUPERSCRIPT TWO}~x~y~z"])
def test_a_page_that_no_list_has_is_said(root: Client, after: str) -> None:
    """A page with a key says so; one without a key, or with names for keys, may show rows."""
    said = set()
    for name, page in LISTS.items():
        if issubclass(page, ListPage):
            answer = root.get(reverse(f"admin:{name}"), {"after": after})
            assert answer.status_code == 200, name
            if answer.context.get("is_wrong_page"):
                said.add(name)
    assert said >= {"audit", "failures", "readings", "interval_totals", "failure_tallies", "concentrators"}


def test_a_fault_is_not_taken_for_a_page_that_is_not_there(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: Any) -> Any:
        raise ValueError("a fault")

    monkeypatch.setattr(LISTS["failures"], "find", find)
    with pytest.raises(ValueError, match="a fault"):
        root.get(reverse("admin:failures"))


def test_a_view_of_a_list_of_the_admin_is_saved_opened_and_deleted(root: Client, north: FleetGroup) -> None:
    act, shown = reverse("admin:saved-views"), reverse("admin:meters_meter_changelist")
    body = {"page": "meters.meter", "query": "group=district%3ANorth&colour=red&o=1"}
    said = root.post(act, {"act": "save", "name": "northern", **body}, follow=True)
    assert said.status_code == 400  # the query is one that the list does not have, and it says so
    view = SavedView.objects.get()
    opened = root.get(reverse("admin:model-list", args=["meters.meter"]), {"view": view.pk}, follow=True)
    assert opened.redirect_chain[-1][0] == f"{shown}?group=district%3ANorth&o=1"
    text = opened.content.decode()
    assert "is shown without colour, which this list no longer has" in text
    assert f"view={view.pk}" in text
    assert (
        "View northern is deleted."
        in root.post(
            act, {"act": "delete", "view": view.pk, "page": "meters.meter", "query": ""}, follow=True
        ).content.decode()
    )
    assert root.post(act, {"act": "save", "name": "x", "page": "meters.nothing", "query": ""}).status_code == 403


def test_views_of_alerts(root: Client) -> None:
    body = {"page": "alerts", "query": "state=ended", "act": "save", "name": "history"}
    text = root.post(reverse("admin:saved-views"), body, follow=True).content.decode()
    assert f'href="?view={SavedView.objects.get().pk}" aria-current="page"' in text
    assert root.get(reverse("admin:alerts"), {"view": SavedView.objects.get().pk}).url.endswith("?state=ended")  # type: ignore[attr-defined]
