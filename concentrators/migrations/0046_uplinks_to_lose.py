from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0045_groups")]

    operations = [
        migrations.AddField(
            model_name="concentrator",
            name="uplinks_to_lose",
            field=models.PositiveSmallIntegerField(
                default=0, editable=False, help_text="in a conformance run of a laboratory meter, on purpose"
            ),
        ),
    ]
