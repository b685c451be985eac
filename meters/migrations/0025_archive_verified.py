"""When the files of an archived month were last verified, and what was wrong."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0024_archive")]
    operations = [
        migrations.AddField(
            model_name="archivedmonth",
            name="checked_at",
            field=models.DateTimeField(
                help_text="when its files were last compared with what was noted", null=True
            ),
        ),
        migrations.AddField(
            model_name="archivedmonth",
            name="fault",
            field=models.TextField(default="", help_text="what was wrong then; empty: nothing"),
        ),
    ]
