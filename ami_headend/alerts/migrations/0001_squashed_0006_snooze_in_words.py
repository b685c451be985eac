"""Alerts, the rules that a head-end begins with, and messages, as the six migrations before left them."""

import ami_headend.core.text
import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

from ami_headend.alerts import defaults


class Migration(migrations.Migration):

    replaces = [
        ('alerts', '0001_initial'),
        ('alerts', '0002_default_rules'),
        ('alerts', '0003_backup_overdue'),
        ('alerts', '0004_conversations'),
        ('alerts', '0005_what_was_told'),
        ('alerts', '0006_snooze_in_words'),
    ]

    initial = True

    dependencies = [
        ('ami_headend', '0001_squashed_0007_access_rights'),
        ('concentrators', '0001_squashed_0024_names_alike'),
        ('keyvault', '0001_squashed_0014_scheme'),
        ('meters', '0001_squashed_0014_names_alike'),
    ]

    operations = [
        migrations.CreateModel(
            name='Rule',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=120, unique=True, validators=[ami_headend.core.text.check_one_line])),
                ('condition', models.CharField(choices=[('failure_rate', 'share of refused frames'), ('kind_seen', 'integrity failures of a kind'), ('meter_event', 'meter events (tamper, cover opened)'), ('silent_meter', 'silent meter'), ('silent_concentrator', 'silent concentrator'), ('completeness', 'completeness of intervals'), ('rotation_stalled', 'stalled rotation'), ('keys_worn', 'device keys due for replacement'), ('audit_broken', 'broken audit chain'), ('master_key_down', 'unusable master key'), ('queue_lag', 'uplinks that wait too long'), ('backup_overdue', 'overdue backup')], max_length=20)),
                ('selector', models.CharField(blank=True, help_text='kind of failure, or OBIS code of an event log', max_length=40)),
                ('threshold', models.FloatField(blank=True, null=True)),
                ('period_minutes', models.PositiveIntegerField(blank=True, null=True)),
                ('severity', models.SmallIntegerField(choices=[(10, 'info'), (20, 'warning'), (30, 'critical')], default=20)),
                ('quiet_minutes', models.PositiveIntegerField(default=240, help_text='receivers are reminded after this time')),
                ('is_enabled', models.BooleanField(default=True, verbose_name='enabled')),
                ('evaluated_at', models.DateTimeField(editable=False, null=True)),
                ('took_ms', models.PositiveIntegerField(default=0, editable=False)),
                ('last_error', models.CharField(blank=True, editable=False, max_length=250)),
                ('marks', models.JSONField(default=dict, editable=False)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Alert',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('severity', models.SmallIntegerField(choices=[(10, 'info'), (20, 'warning'), (30, 'critical')])),
                ('subject_kind', models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12)),
                ('subject_id', models.BigIntegerField(default=0, help_text='the id of its row; 0 if it has no row')),
                ('subject', models.CharField(help_text='its name at the last evaluation', max_length=120)),
                ('summary', models.CharField(max_length=250)),
                ('opened_at', models.DateTimeField()),
                ('seen_at', models.DateTimeField(help_text='last evaluation that found it')),
                ('resolved_at', models.DateTimeField(null=True)),
                ('acknowledged_at', models.DateTimeField(null=True)),
                ('acknowledged_by', models.CharField(blank=True, max_length=150)),
                ('snoozed_until', models.DateTimeField(null=True)),
                ('rule', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='alerts', to='alerts.rule')),
                ('subjects', models.PositiveIntegerField(default=1, help_text='the number of subjects at the last evaluation')),
            ],
            options={
                'permissions': [('handle_alert', 'Can acknowledge and snooze alerts')],
                'indexes': [models.Index(condition=models.Q(('resolved_at', None)), fields=['-severity', 'opened_at'], name='alert_open'), models.Index(fields=['rule', 'subject_kind', 'subject_id', '-id'], name='alert_by_subject'), models.Index(condition=models.Q(('resolved_at__isnull', False)), fields=['-resolved_at'], name='alert_history')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('resolved_at', None)), fields=('rule', 'subject_kind', 'subject_id'), name='alert_open_once')],
            },
        ),
        migrations.CreateModel(
            name='Channel',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=120, unique=True, validators=[ami_headend.core.text.check_one_line])),
                ('kind', models.CharField(choices=[('email', 'e-mail'), ('webhook', 'signed webhook')], max_length=7)),
                ('address', models.CharField(help_text='an https:// address, or e-mail addresses separated by commas', max_length=1000)),
                ('least_severity', models.SmallIntegerField(choices=[(10, 'info'), (20, 'warning'), (30, 'critical')], default=20, help_text='only alerts of at least this severity are sent', verbose_name='least severity')),
                ('is_enabled', models.BooleanField(default=True, verbose_name='enabled')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'ordering': ['name'],
                'permissions': [('rotate_channel_secret', 'Can make new signing secrets of webhooks')],
            },
        ),
        migrations.CreateModel(
            name='StoredMark',
            fields=[
                ('at', models.DateTimeField(primary_key=True, serialize=False)),
                ('failure_id', models.BigIntegerField()),
                ('event_id', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='AlertStep',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('step', models.CharField(choices=[('opened', 'opened'), ('reopened', 'began again'), ('reminded', 'reminded'), ('acknowledged', 'acknowledged'), ('snoozed', 'snoozed'), ('woken', 'snooze ended'), ('noted', 'noted'), ('resolved', 'ended')], max_length=12)),
                ('actor', models.CharField(blank=True, max_length=150)),
                ('note', models.CharField(blank=True, max_length=1000)),
                ('alert', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='steps', to='alerts.alert')),
            ],
        ),
        migrations.CreateModel(
            name='Conversation',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('recipient', models.CharField(blank=True, max_length=254)),
                ('word', models.CharField(choices=[('nothing', 'nothing'), ('open', 'open'), ('over', 'over'), ('unsure', 'unsure')], default='nothing', max_length=7)),
                ('subjects', models.PositiveIntegerField(default=0, help_text='the number of subjects in its last message')),
                ('disturbed_at', models.DateTimeField(help_text='its last message about a problem', null=True)),
                ('flaps', models.PositiveSmallIntegerField(default=0)),
                ('look_at', models.DateTimeField(help_text='when to send it a message, if nothing changes until then', null=True)),
                ('alert', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='conversations', to='alerts.alert')),
                ('channel', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='conversations', to='alerts.channel')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('look_at__isnull', False)), fields=['look_at'], name='conversation_due')],
                'constraints': [models.UniqueConstraint(fields=('alert', 'channel', 'recipient'), name='conversation_once')],
            },
        ),
        migrations.CreateModel(
            name='Delivery',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('event', models.CharField(max_length=20)),
                ('body', models.JSONField()),
                ('created_at', models.DateTimeField()),
                ('due_at', models.DateTimeField(help_text='when the sweep sends it, if nobody did before')),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('delivered_at', models.DateTimeField(null=True)),
                ('given_up_at', models.DateTimeField(null=True)),
                ('last_error', models.CharField(blank=True, max_length=250)),
                ('alert', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='alerts.alert')),
                ('channel', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deliveries', to='alerts.channel')),
                ('channel_name', models.CharField(default='', max_length=120, verbose_name='name of the channel')),
                ('leased_at', models.DateTimeField(help_text='when a worker began to send it', null=True)),
                ('recipient', models.CharField(blank=True, max_length=254)),
                ('conversation', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deliveries', to='alerts.conversation')),
            ],
            options={
                'verbose_name_plural': 'deliveries',
                'indexes': [models.Index(condition=models.Q(('delivered_at', None), ('given_up_at', None)), fields=['due_at'], name='delivery_undelivered'), models.Index(fields=['channel', '-id'], name='delivery_by_channel'), models.Index(condition=models.Q(('leased_at__isnull', False)), fields=['channel'], name='delivery_leased')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('conversation__isnull', False), ('delivered_at', None), ('given_up_at', None)), fields=('conversation',), name='delivery_one_under_way')],
            },
        ),
        migrations.CreateModel(
            name='GatheredSubjects',
            fields=[
                ('alert', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='gathered', serialize=False, to='alerts.alert')),
                ('kind', models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12)),
                ('ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None)),
            ],
        ),
        migrations.RunPython(defaults.make_rules),
        migrations.RunPython(defaults.make_first_mark),
    ]
