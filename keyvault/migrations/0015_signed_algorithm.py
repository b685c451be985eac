"""Numbers of COSE algorithms may be negative and long: that of HPKE is -65537."""

from django.db import migrations, models

import keyvault.schemes.table


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0001_squashed_0014_scheme")]
    operations = [
        migrations.AlterField(
            model_name="devicekey",
            name="algorithm",
            field=models.IntegerField(
                choices=keyvault.schemes.table.algorithm_choices, default=10, help_text="COSE algorithm"
            ),
        ),
        migrations.AlterField(
            model_name="devicekey",
            name="scheme",
            field=models.CharField(
                choices=keyvault.schemes.table.scheme_choices,
                db_default="ccm",
                default="ccm",
                help_text="the scheme that protects its readings",
                max_length=32,
            ),
        ),
    ]
