"""The right to have waiting frames judged again."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0010_as_stored")]
    operations = [
        migrations.AlterModelOptions(
            name="uplink",
            options={
                "permissions": [("verify_again_uplink", "Can have frames judged again that waited for a key")]
            },
        )
    ]
