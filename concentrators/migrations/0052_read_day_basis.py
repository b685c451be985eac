"""Counted days remember all that they were counted from: each that is followed is counted anew once."""

import concentrators.models.deadlines
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0051_feed_delivery'),
    ]

    operations = [
        migrations.RemoveField(
            model_name='readday',
            name='arrived',
        ),
        migrations.AddField(
            model_name='readday',
            name='basis',
            field=models.BinaryField(default=b'', null=True),
        ),
        migrations.AlterField(
            model_name='readdeadline',
            name='zone',
            field=models.CharField(default='UTC', help_text='time zone in which days begin and the time is meant, such as Europe/Oslo; Etc/UTC if UTC is meant', max_length=64, validators=[concentrators.models.deadlines.check_zone]),
        ),
    ]
