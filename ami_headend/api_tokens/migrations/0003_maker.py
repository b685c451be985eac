"""The account behind each token, whatever its name becomes."""

import django.db.models.deletion
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def find_makers(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Bind each token to the account that has its maker's name now; nothing else is known of it."""
    database = schema_editor.connection.alias
    named = apps.get_model("auth", "User").objects.using(database).filter(username=models.OuterRef("created_by"))
    apps.get_model("api_tokens", "ApiToken").objects.using(database).update(maker=models.Subquery(named.values("pk")[:1]))


class Migration(migrations.Migration):

    dependencies = [
        ("api_tokens", "0002_group_limits"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="maker",
            field=models.ForeignKey(blank=True, help_text="the account of that name then", null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL),
        ),
        migrations.RunPython(find_makers, migrations.RunPython.noop),
    ]
