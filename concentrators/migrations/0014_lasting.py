"""Digests of refused frames; how often work on an uplink began, and how far it came."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0013_sealed_key_version'),
    ]

    operations = [
        migrations.AddField(
            model_name='uplink',
            name='begun',
            field=models.PositiveSmallIntegerField(db_default=0, help_text='times work on it began after the sweep had claimed it'),
        ),
        migrations.AddField(
            model_name='uplink',
            name='claims',
            field=models.PositiveSmallIntegerField(db_default=0, help_text='times the sweep enqueued it again'),
        ),
        migrations.AddField(
            model_name='uplink',
            name='progress',
            field=models.JSONField(help_text='how far it is, where it is verified piece by piece', null=True),
        ),
        migrations.CreateModel(
            name='RefusedFrame',
            fields=[
                ('pk', models.CompositePrimaryKey('kid', 'invocation_counter', 'digest', blank=True, editable=False, primary_key=True, serialize=False)),
                ('kid', models.BinaryField(max_length=10)),
                ('invocation_counter', models.BigIntegerField()),
                ('digest', models.BinaryField(help_text="the first 16 octets of the frame's SHA-256", max_length=16)),
                ('kind', models.CharField(max_length=18)),
                ('received_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['received_at'], name='refused_frame_by_time')],
            },
        ),
    ]
