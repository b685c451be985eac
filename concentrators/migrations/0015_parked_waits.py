"""Parked frames wait, too, for a fault to be mended."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0014_lasting'),
    ]

    operations = [
        migrations.AlterField(
            model_name='uplink',
            name='waiting',
            field=models.PositiveIntegerField(default=0, help_text='rejected frames that may be judged again'),
        ),
    ]
