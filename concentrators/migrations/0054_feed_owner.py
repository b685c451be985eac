"""Each subscription of the feed has an owner; of those that are there, whoever moved it last."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0053_archived_months")]
    operations = [
        migrations.AddField(
            "feedsubscription",
            "owner",
            models.CharField(db_default="", default="", help_text="who made it; empty: as account", max_length=150),
        )
    ]
