"""Heartbeats say what is wrong on their host."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ami_headend', '0013_deadline_removal_rights'),
    ]

    operations = [
        migrations.AddField(
            model_name='heartbeat',
            name='trouble',
            field=models.CharField(blank=True, db_default='', help_text='what is wrong on its host', max_length=250),
        ),
    ]
