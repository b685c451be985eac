from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0024_mask_authorities")]

    operations = [
        migrations.AlterField(
            model_name="enrolment",
            name="cti",
            field=models.BinaryField(help_text="the certificate's number, 8 octets", max_length=8),
        ),
        migrations.AddConstraint(
            model_name="enrolment",
            constraint=models.UniqueConstraint(fields=["cti", "authority"], name="enrolment_cti_of_authority"),
        ),
    ]
