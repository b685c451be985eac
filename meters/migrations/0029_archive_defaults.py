"""What is not given of an archived month has a value in the database, too, so that an earlier release may add one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0028_cells")]
    operations = [
        migrations.AlterField(
            model_name="archivedmonth",
            name="fault",
            field=models.TextField(db_default="", default="", help_text="what was wrong then; empty: nothing"),
        ),
        migrations.AlterField(
            model_name="archivedmonth",
            name="under_way",
            field=models.JSONField(
                db_default={},
                default=dict,
                help_text="a round over its files: since when, how many are done, what was wrong; empty: none",
            ),
        ),
    ]
