"""The roles: groups that the migrations make, with the rights that stand in ami_headend.signin.roles."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from ami_headend.signin import roles

pytestmark = pytest.mark.django_db


def rights_of(group: str) -> set[str]:
    rows = Permission.objects.filter(group__name=group).values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in rows}


def establish() -> None:
    state = MigrationLoader(connection).project_state(("auth", "0012_alter_user_first_name_max_length"))
    with connection.schema_editor() as editor:
        roles.establish(state.apps, editor)


def test_the_migrations_made_the_groups_with_exactly_their_rights() -> None:
    assert set(Group.objects.values_list("name", flat=True)) == set(roles.RIGHTS)
    for name, rights in roles.RIGHTS.items():
        assert rights_of(name) == rights


def test_they_are_made_where_permissions_are_not_made_yet() -> None:
    Group.objects.all().delete()
    ContentType.objects.filter(app_label__in=["keyvault", "meters", "concentrators"]).delete()
    ContentType.objects.clear_cache()
    establish()
    test_the_migrations_made_the_groups_with_exactly_their_rights()


def test_again_changes_nothing_and_brings_back_what_is_missing() -> None:
    officers = Group.objects.get(name=roles.KEY_OFFICER)
    officers.permissions.remove(Permission.objects.get(codename="rotate_masterkey"))
    given = Permission.objects.get(codename="view_reading")
    officers.permissions.add(given)
    for _ in range(2):
        establish()
    assert rights_of(roles.KEY_OFFICER) == roles.RIGHTS[roles.KEY_OFFICER] | {"meters.view_reading"}
    assert officers.pk == Group.objects.get(name=roles.KEY_OFFICER).pk


def test_rights_over_keys_are_apart() -> None:
    """Nobody but a key officer touches keys; nobody but an auditor sees the audit; who changes does not audit."""
    holders = {
        codename: {role for role, rights in roles.RIGHTS.items() if f"keyvault.{codename}" in rights}
        for codename in Permission.objects.filter(content_type__app_label="keyvault").values_list("codename", flat=True)
    }
    officers, auditors = {roles.KEY_OFFICER}, {roles.AUDITOR}
    acts = ["provision_devicekey", "rotate_devicekey", "compromise_devicekey", "export_devicekey"]
    assert all(holders[act] == officers for act in [*acts, "rotate_masterkey", "destroy_masterkey"])
    assert holders["view_auditrecord"] == holders["export_auditrecord"] == auditors
    assert holders["decide_approval"] == {roles.KEY_OFFICER, roles.ADMINISTRATOR}
    assert roles.ADMINISTRATOR not in holders["view_devicekey"]
    by_hand = [
        f"{act}_{model._meta.model_name}"
        for act in ("add", "change", "delete")
        for model in apps.get_app_config("keyvault").get_models()
    ]
    assert not [act for act in by_hand if holders[act]]
