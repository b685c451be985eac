"""Each event says which scheme protected it on its way, as readings do: NULL stands for ccm."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0018_push_profiles")]
    operations = [
        migrations.AddField(
            model_name="meterevent",
            name="scheme",
            field=models.SmallIntegerField(
                help_text="number of the scheme that protected it; empty: the usual one", null=True
            ),
        ),
    ]
