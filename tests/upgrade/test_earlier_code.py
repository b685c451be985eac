"""Earlier code works over the schema of this one, as docs/operations/upgrade.md has it: it knows no new column."""

from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import models
from django.db.migrations import AddField
from django.db.migrations.loader import MigrationLoader

# Added before anybody looked at this: code of before cannot add rows there, so all its processes have to be stopped.
# No value is right for each row: a MAC is of it, and a session whose version is not its key's would take no frame.
_BEFORE = {
    "keyvault.authority.mac",
    "keyvault.couponlist.identity",
    "keyvault.meteridentity.mac",
    "keyvault.session.key_version",
}


def test_what_a_migration_adds_to_a_table_has_a_value_in_the_database() -> None:
    """Else code that does not know the column could not add a row."""
    ours = {one.label: one for one in apps.get_app_configs() if Path(one.path).is_relative_to(settings.BASE_DIR)}
    added = {
        (app, operation.model_name, operation.name)
        for (app, _), migration in MigrationLoader(None).disk_migrations.items()
        if app in ours and not migration.replaces and "site-packages" not in ours[app].path
        for operation in migration.operations
        if isinstance(operation, AddField)
    }
    assert len(added) > 20
    without = set()
    for app, model, name in added:
        field = ours[app].get_model(model)._meta.get_field(name)
        assert isinstance(field, models.Field)
        if not (field.null or field.many_to_many or field.has_db_default()):
            without.add(f"{app}.{model.lower()}.{name}")
    assert without == _BEFORE
