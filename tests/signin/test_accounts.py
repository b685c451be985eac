"""Accounts in the admin: who changes whose, and that it is recorded; the command for lost phones."""

from base64 import b64encode
from pathlib import Path

import pytest
from django.contrib import auth
from django.contrib.auth.models import AbstractBaseUser, Group, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from ami_headend.signin import authentication, roles, secondfactor
from keyvault.models import AuditRecord
from tests.signin.people import PASSWORD, SECOND, code, enrolled, give_password, is_signed_in, member, officer

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


def test_a_new_name_is_recorded_with_the_old_one(administrator: Client) -> None:
    user = member("op")
    administrator.post(change_url(user), fields(user))
    administrator.post(change_url(user), fields(user, username="ann"))
    records = AuditRecord.objects.filter(act="user.change").order_by("number")
    assert [(row.subject["name"], row.subject.get("name_before")) for row in records] == [("op", None), ("ann", "op")]


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
    root = User.objects.create_superuser("root")
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
    with pytest.raises(CommandError, match="Nothing was done"):
        call_command("reset_second_factor", "officer")
    assert secondfactor.is_set_up(user)


def test_the_journal_is_read_only(admin_client: Client, settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    give_password(Client(), "admin", "wrong")
    url = reverse("admin:signin_signin_changelist")
    assert "wrong name or password" in admin_client.get(url).content.decode()
    assert admin_client.get(reverse("admin:signin_signin_add")).status_code == 403


def test_a_command_ends_a_lock_out(client: Client, capsys: pytest.CaptureFixture[str], settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    member("op", roles.OPERATOR)
    for _ in range(settings.SIGN_IN_FAILURES):
        give_password(client, "op", "wrong")
    assert give_password(client, "op").status_code == 429
    call_command("unlock_account", "op")
    assert give_password(client, "op").status_code == 302
    call_command("unlock_account", "op")
    assert capsys.readouterr().out.splitlines() == ["op may sign in again.", "op was not locked out."]
    with pytest.raises(CommandError, match="no account 'nobody'"):
        call_command("unlock_account", "nobody")


def test_what_was_typed_as_a_name_is_kept_nowhere(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """People type passwords there; and names of accounts are known to none who read the rows."""
    member("op", roles.OPERATOR)
    for name in ("my-secret-password", "op"):
        give_password(client, name, "wrong")
    with connection.cursor() as cursor:
        cursor.execute("SELECT a::text FROM axes_accessattempt a")
        rows = [row for (row,) in cursor.fetchall()]
    assert len(rows) == 2
    for name in ("my-secret-password", "\top\t"):
        assert name not in "".join(rows)
        assert name not in caplog.text


def test_the_list_shows_roles_and_second_factors(admin_client: Client, settings: Settings) -> None:
    settings.TWO_FACTOR_REQUIRED = False
    member("without")
    enrolled(officer("officer"))
    listed = admin_client.get(reverse("admin:auth_user_changelist")).content.decode()
    for shown in ("no role", "key officer", "superuser: all rights"):
        assert shown in listed
    url = reverse("admin:auth_user_changelist")
    assert [user.username for user in admin_client.get(url, {"role": "none"}).context["cl"].queryset] == ["without"]
    assert admin_client.get(url, {"role": "9" * 5000}).status_code == 200


def test_a_password_that_was_right_is_not_hashed_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute; another password, a new one, a blocked account and a lock-out count at once."""
    settings.TWO_FACTOR_REQUIRED = False
    user = member("program", roles.OPERATOR)
    hashed: list[str] = []

    def noted(request: HttpRequest, **given: str) -> AbstractBaseUser | None:
        hashed.append("once")
        return auth.authenticate(request, **given)

    monkeypatch.setattr(authentication, "authenticate", noted)

    def ask(password: str = PASSWORD) -> int:
        given = f"Basic {b64encode(f'program:{password}'.encode()).decode()}"
        return int(Client().get("/api/v1/meters", headers={"Authorization": given}).status_code)

    assert [ask(), ask(), ask()] == [200] * 3
    assert len(hashed) == 1
    assert ask("wrong") == 401
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert ask() == 401
    User.objects.filter(pk=user.pk).update(is_active=True)
    user.set_password("another long password")
    user.save()
    assert ask() == 401
    assert ask("another long password") == 200
    for _ in range(settings.SIGN_IN_FAILURES):
        ask("wrong")
    assert ask("another long password") == 429
