"""Accounts in the admin: who changes whose, and that it is recorded; the command for lost phones."""

from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from ami_headend import roles
from ami_headend.signin import secondfactor
from keyvault.models import AuditRecord
from tests.signin.people import SECOND, code, enrolled, give_password, is_signed_in, member, officer

pytestmark = pytest.mark.django_db


@pytest.fixture
def administrator(settings: Settings) -> Client:
    settings.TWO_FACTOR_REQUIRED = False
    client = Client()
    client.force_login(member("administrator", roles.ADMINISTRATOR))
    return client


def change_url(user: User) -> str:
    return reverse("admin:auth_user_change", args=[user.pk])


def fields(user: User, **given: object) -> dict[str, object]:
    return {"username": user.username, "is_active": "on", "is_staff": "on", **given}


def acts() -> list[tuple[str, str]]:
    return [(row.act, row.actor) for row in AuditRecord.objects.order_by("number")]


def test_an_administrator_gives_roles_and_it_is_recorded(administrator: Client) -> None:
    user, role = member("op"), Group.objects.get(name=roles.OPERATOR)
    answer = administrator.post(change_url(user), fields(user, groups=[role.pk], is_superuser="on"))
    assert answer.status_code == 302
    user.refresh_from_db()
    assert (list(user.groups.all()), user.is_superuser) == ([role], False)
    record = AuditRecord.objects.get(act="user.change")
    assert record.actor == "administrator"
    assert record.subject["groups"] == [roles.OPERATOR]


def test_an_administrator_gives_itself_nothing(administrator: Client) -> None:
    user = User.objects.get(username="administrator")
    answer = administrator.post(
        change_url(user), fields(user, groups=[Group.objects.get(name=roles.KEY_OFFICER).pk], is_superuser="on")
    )
    assert answer.status_code == 302
    user.refresh_from_db()
    assert [group.name for group in user.groups.all()] == [roles.ADMINISTRATOR]
    assert not user.is_superuser


def test_superusers_are_changed_by_superusers_alone(administrator: Client, admin_client: Client) -> None:
    """Not even through the actions of the list."""
    root = User.objects.get(username="admin")
    pages = ["auth_user_change", "auth_user_password_change", "auth_user_delete"]
    for page in pages:
        url = reverse(f"admin:{page}", args=[root.pk])
        assert administrator.post(url, fields(root, post="yes", is_active="")).status_code == 403
        assert admin_client.get(url).status_code == 200
    for act in ("reset_second_factor", "unlock"):
        url = reverse(f"admin:auth_user_{act}", args=[root.pk])
        assert administrator.post(url).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [root.pk], "post": "yes"}
    administrator.post(reverse("admin:auth_user_changelist"), chosen)
    assert User.objects.filter(pk=root.pk, is_active=True).exists()
    assert not [act for act in acts() if act[1] == "administrator" and act[0] != "user.delete"]


def test_an_administrator_resets_a_second_factor(administrator: Client, client: Client) -> None:
    user = officer()
    secret, _ = enrolled(user)
    give_password(client, "officer")
    client.post(SECOND, {"code": code(secret, 1)})
    url = reverse("admin:auth_user_reset_second_factor", args=[user.pk])
    assert "be sure who asks" in administrator.get(url).content.decode()
    assert secondfactor.is_set_up(user)
    assert administrator.post(url)["Location"] == change_url(user)
    assert not secondfactor.is_set_up(user)
    assert not is_signed_in(client)
    assert acts()[-1] == ("second_factor.remove", "administrator")


def test_passwords_and_deletions_are_recorded(administrator: Client) -> None:
    user, new = member("op"), "another long password"
    url = reverse("admin:auth_user_password_change", args=[user.pk])
    administrator.post(url, {"password1": new, "password2": "different", "usable_password": "true"})
    assert acts() == []
    administrator.post(url, {"password1": new, "password2": new, "usable_password": "true"})
    administrator.post(reverse("admin:auth_user_delete", args=[user.pk]), {"post": "yes"})
    assert [act for act, _ in acts()] == ["user.password", "user.delete"]
    assert not User.objects.filter(pk=user.pk).exists()


def test_nothing_happens_that_cannot_be_recorded(administrator: Client, settings: Settings, tmp_path: Path) -> None:
    user, role = member("op"), Group.objects.get(name=roles.OPERATOR)
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    assert administrator.post(change_url(user), fields(user, groups=[role.pk])).status_code == 302
    administrator.post(reverse("admin:auth_user_delete", args=[user.pk]), {"post": "yes"})
    user.refresh_from_db()
    assert not user.groups.exists()
    assert "could not be audited" in administrator.get(change_url(user)).content.decode()


def test_the_command_resets_one_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    one, other, _ = officer("one"), officer("other"), officer("third")
    enrolled(one)
    enrolled(other)
    call_command("reset_second_factor", "one")
    assert not secondfactor.is_set_up(one)
    assert secondfactor.is_set_up(other)
    call_command("reset_second_factor", "--all")
    assert not secondfactor.is_set_up(other)
    assert "1 (other)" in capsys.readouterr().out
    with pytest.raises(CommandError, match="no account 'nobody'"):
        call_command("reset_second_factor", "nobody")


def test_the_command_changes_nothing_that_cannot_be_recorded(settings: Settings, tmp_path: Path) -> None:
    user = officer()
    enrolled(user)
    settings.MASTER_KEY_FILE = tmp_path / "gone"
    with pytest.raises(CommandError, match="could not be audited"):
        call_command("reset_second_factor", "officer")
    assert secondfactor.is_set_up(user)


def test_the_journal_is_read_only(admin_client: Client, settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    give_password(Client(), "admin", "wrong")
    url = reverse("admin:signin_signin_changelist")
    assert "wrong name or password" in admin_client.get(url).content.decode()
    assert admin_client.get(reverse("admin:signin_signin_add")).status_code == 403
