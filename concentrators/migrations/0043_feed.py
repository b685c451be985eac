"""The feed. Its first era begins here: readings from before it are in no lot."""

import secrets

import ami_headend.core.names
import concentrators.models.feed
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models
from django.utils import timezone


def begin(apps, schema_editor):
    alias = schema_editor.connection.alias
    era = apps.get_model("concentrators", "FeedEra").objects.using(alias).create(
        name=secrets.token_hex(6), position=0, began_at=timezone.now()
    )
    apps.get_model("concentrators", "FeedHead").objects.using(alias).create(era=era)


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0042_confirmed_identities'),
    ]

    operations = [
        migrations.CreateModel(
            name='FeedSubscription',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', ami_headend.core.names.NameField(max_length=60, unique=True)),
                ('resource', models.CharField(choices=[('readings', 'readings'), ('events', 'events')], max_length=8)),
                ('era', models.CharField(max_length=16)),
                ('position', models.BigIntegerField()),
                ('row', models.IntegerField()),
                ('account', models.CharField(help_text='who moved it last', max_length=150)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('moved_at', models.DateTimeField(help_text='when its consumer last said how far it has come')),
            ],
        ),
        migrations.CreateModel(
            name='FeedEra',
            fields=[
                ('name', models.CharField(max_length=16, primary_key=True, serialize=False)),
                ('position', models.BigIntegerField()),
                ('began_at', models.DateTimeField()),
                ('parent', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.feedera')),
            ],
        ),
        migrations.CreateModel(
            name='FeedHead',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('position', models.BigIntegerField(default=0)),
                ('readings', models.BigIntegerField(default=0)),
                ('events', models.BigIntegerField(default=0)),
                ('first_kept', models.BigIntegerField(default=1)),
                ('era', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.feedera')),
            ],
        ),
        migrations.CreateModel(
            name='FeedLot',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('xid', concentrators.models.feed.TransactionIdField(db_default=concentrators.models.feed.CurrentTransaction())),
                ('position', models.BigIntegerField(null=True, unique=True)),
                ('change', models.CharField(choices=[('new', 'new'), ('relabelled', 'relabelled')], max_length=12)),
                ('readings', models.IntegerField()),
                ('events', models.IntegerField()),
                ('captured_from', models.DateTimeField()),
                ('captured_to', models.DateTimeField()),
                ('stored_at', models.DateTimeField(db_default=concentrators.models.feed.ClockTimestamp())),
                ('reading_rows', models.BinaryField(null=True)),
                ('event_rows', models.BinaryField(null=True)),
                ('readings_before', models.BigIntegerField(null=True)),
                ('events_before', models.BigIntegerField(null=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('position', None)), fields=['id'], name='feed_lot_without_position')],
            },
        ),
        # Packs are compressed already: PostgreSQL need not try.
        migrations.RunSQL(
            "ALTER TABLE concentrators_feedlot"
            " ALTER reading_rows SET STORAGE EXTERNAL, ALTER event_rows SET STORAGE EXTERNAL",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(begin, migrations.RunPython.noop),
    ]
