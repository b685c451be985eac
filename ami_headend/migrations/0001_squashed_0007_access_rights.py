"""Roles with their rights, kept answers and heartbeats, as the seven migrations before left them."""

import django.contrib.postgres.fields
from django.db import migrations, models

from ami_headend.signin import roles


class Migration(migrations.Migration):

    replaces = [
        ('ami_headend', '0001_roles'),
        ('ami_headend', '0002_failure_rights'),
        ('ami_headend', '0003_kept_answers'),
        ('ami_headend', '0004_length_rights'),
        ('ami_headend', '0005_component_rights'),
        ('ami_headend', '0006_heartbeats'),
        ('ami_headend', '0007_access_rights'),
    ]

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('contenttypes', '0002_remove_content_type_name'),
    ]

    operations = [
        migrations.CreateModel(
            name='KeptAnswer',
            fields=[
                ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('content', models.BinaryField()),
                ('taken_at', models.DateTimeField()),
                ('took_s', models.FloatField(help_text='how long the database worked on it')),
            ],
            options={
                'permissions': [('view_components', "Can see the health of the head-end's components")],
            },
        ),
        migrations.CreateModel(
            name='Heartbeat',
            fields=[
                ('name', models.CharField(max_length=120, primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=10)),
                ('queues', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=40), size=None)),
                ('processes', models.PositiveIntegerField()),
                ('started_at', models.DateTimeField()),
                ('beat_at', models.DateTimeField()),
                ('clock_off_s', models.FloatField(help_text="how far the host's clock is ahead of the database's")),
            ],
        ),
        migrations.RunPython(roles.establish),
    ]
