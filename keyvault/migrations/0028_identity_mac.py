from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0027_coupons_left")]

    operations = [
        migrations.AddField(
            model_name="meteridentity",
            name="mac",
            field=models.BinaryField(
                default=b"", help_text="of title, key and certificate, under the audit key", max_length=32
            ),
        ),
        migrations.AddIndex(
            model_name="auditrecord",
            index=models.Index(
                fields=["number"],
                name="audit_of_mask_withdrawals",
                condition=models.Q(act="mask_authority.withdraw"),
            ),
        ),
        migrations.AlterField(
            model_name="maskauthority",
            name="mac",
            field=models.BinaryField(
                help_text="of all this but the time of pinning, under the audit key", max_length=32
            ),
        ),
    ]
