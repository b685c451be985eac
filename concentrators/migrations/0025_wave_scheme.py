"""A wave may move meters to another scheme; numbers of COSE algorithms may be negative."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0001_squashed_0024_names_alike")]
    operations = [
        migrations.AlterField(
            model_name="rotationwave",
            name="algorithm",
            field=models.IntegerField(help_text="of the new keys; empty: as the old one's", null=True),
        ),
        migrations.AddField(
            model_name="rotationwave",
            name="scheme",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="of the new keys; empty: as the old one's",
                max_length=32,
            ),
        ),
    ]
