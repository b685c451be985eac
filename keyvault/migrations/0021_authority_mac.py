from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0020_revoked_of_authority")]

    operations = [
        migrations.AddField(
            model_name="authority",
            name="mac",
            field=models.BinaryField(default=b"", help_text="of all this, under the audit key", max_length=32),
        ),
    ]
