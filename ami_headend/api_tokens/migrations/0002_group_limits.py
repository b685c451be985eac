"""Tokens that are limited to groups of meters."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('api_tokens', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='apitoken',
            name='group_ids',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), blank=True, help_text='groups of meters that it is limited to; null: all meters. A group that is removed opens nothing', null=True, size=None),
        ),
    ]
