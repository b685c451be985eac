"""Logouts that the provider told of: a token counts once, and ends what is under way."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("signin", "0004_provider_session")]
    operations = [
        migrations.CreateModel(
            name="ProviderLogout",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("issuer", models.CharField(max_length=500)),
                ("token_id", models.CharField(help_text="its jti", max_length=255)),
                ("subject", models.CharField(blank=True, max_length=255)),
                ("session", models.CharField(blank=True, help_text="its sid", max_length=255)),
                ("told_at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("issuer", "token_id"), name="provider_logout_once")
                ],
            },
        ),
    ]
