"""Every page of the sidebar: its cost is the same however many rows there are, and every role sees what it is shown."""

from collections.abc import Iterator
from unittest import mock

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from ami_headend.console import navigation
from ami_headend.models import KeptAnswer
from ami_headend.signin import roles
from concentrators.totals.expected import refresh
from tests.concentrators.statements import Statements, counting
from tests.test_admin import fill

pytestmark = pytest.mark.django_db

PAGES = {page.url_name: page for _, pages in navigation.GROUPS for page in pages if page.url_name.startswith("admin:")}


@pytest.fixture
def statements() -> Iterator[Statements]:
    with counting() as noted:
        yield noted


# That a session lives is written once in a while, whatever page is asked for.
SESSION_LIVES = ('UPDATE "signin_session"', "SAVEPOINT", "RELEASE SAVEPOINT")


def cost(client: Client, address: str, statements: Statements) -> list[str]:
    """The statements of a page to which nothing was asked before, where no meter has changed since somebody looked."""
    KeptAnswer.objects.all().delete()
    refresh()
    statements.take()
    assert client.get(address).status_code == 200
    return [statement for statement in statements.take() if not statement.startswith(SESSION_LIVES)]


def test_a_page_costs_the_same_however_many_rows_there_are(admin_client: Client, statements: Statements) -> None:
    def costs() -> dict[str, list[str]]:
        found = {}
        for name in PAGES:
            admin_client.get(reverse(name))  # what a process asks once, or now and then
            found[name] = cost(admin_client, reverse(name), statements)
        return found

    fill(2)
    few = costs()
    for _ in range(2):
        fill(6)
    many = costs()
    assert not {name: asked for name, asked in many.items() if not len(asked) == len(few[name]) <= 50}


@pytest.mark.parametrize("role", roles.RIGHTS)
def test_a_role_sees_the_pages_that_it_is_shown_and_no_others(role: str, client: Client) -> None:
    user = User.objects.create_user(role, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client.force_login(user)
    fill(1)
    shown = client.get(reverse("admin:index")).content.decode()
    for name, page in PAGES.items():
        address = reverse(name)
        may = user.has_perms(page.permissions)
        assert client.get(address).status_code == (200 if may else 403), name
        assert (f'href="{address}"' in shown) == may, name


def test_the_models_of_all_apps_are_listed_for_no_page(admin_client: Client) -> None:
    """The sidebar is the console's own; the page of an app lists its models."""
    build = AdminSite._build_app_dict
    with mock.patch.object(AdminSite, "_build_app_dict", autospec=True, side_effect=build) as listed:
        for name in ("admin:index", "admin:meters", "admin:meters_place_changelist"):
            assert admin_client.get(reverse(name)).status_code == 200
        assert not listed.called
        assert "Users" in admin_client.get(reverse("admin:app_list", args=["auth"])).content.decode()
        assert listed.called
