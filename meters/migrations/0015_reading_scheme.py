"""Each reading says which scheme protected it on its way: NULL, which stands for ccm, costs no octet."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0001_squashed_0014_names_alike")]
    operations = [
        migrations.AddField(
            model_name="reading",
            name="scheme",
            field=models.SmallIntegerField(
                help_text="number of the scheme that protected it; empty: the usual one", null=True
            ),
        ),
    ]
