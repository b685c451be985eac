"""Who rotates a token has its new secret; the account before has the previous one."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("api_tokens", "0003_maker"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="apitoken",
            name="maker",
            field=models.ForeignKey(blank=True, help_text="the account that has the present secret: it made the token, or rotated it last", null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="previous_maker",
            field=models.ForeignKey(blank=True, help_text="the account that has the previous secret, if it is not the maker", null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL),
        ),
    ]
