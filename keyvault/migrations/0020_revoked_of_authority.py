from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0019_enrolment")]

    operations = [
        migrations.AlterField(
            model_name="revokedcertificate", name="cti", field=models.BinaryField(max_length=8)
        ),
        migrations.AddConstraint(
            model_name="revokedcertificate",
            constraint=models.UniqueConstraint(fields=["cti", "authority"], name="revoked_of_authority"),
        ),
    ]
