"""How far a round over the files of an archived month is."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0025_archive_verified")]
    operations = [
        migrations.AddField(
            model_name="archivedmonth",
            name="under_way",
            field=models.JSONField(
                default=dict,
                help_text="a round over its files: since when, how many are done, what was wrong; empty: none",
            ),
        ),
    ]
