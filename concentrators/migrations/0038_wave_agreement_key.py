from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0037_push_profiles")]

    operations = [
        migrations.AddField(
            model_name="rotationwave",
            name="agreement_key",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="name of that which new keys go with, if any",
                max_length=100,
            ),
        ),
    ]
