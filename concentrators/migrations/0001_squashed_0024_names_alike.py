"""Concentrators, uplinks, failures, commands and totals, as the twenty-four migrations before left them."""

import ami_headend.core.names
import django.contrib.postgres.constraints
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import meters.models
from django.db import migrations, models

from concentrators.migrations import _triggers

# Bodies are ciphertext and do not compress; totals change often and stay HOT with room on the page.
STORAGE = """
    ALTER TABLE concentrators_uplink ALTER COLUMN body SET STORAGE EXTERNAL;
    ALTER TABLE concentrators_uplink SET (fillfactor = 70);
    ALTER TABLE concentrators_intervaltotal SET (fillfactor = 70);
    ALTER TABLE concentrators_failuretally SET (fillfactor = 70);
"""
# Groups of failures by one of their concentrators: the only one, or one among several.
GROUPS_BY_CONCENTRATOR = """
    CREATE INDEX failure_group_concentrator
        ON concentrators_failuregroup ((concentrators[1]), last_at DESC, id DESC) WHERE cardinality(concentrators) = 1;
    CREATE INDEX failure_group_concentrators
        ON concentrators_failuregroup USING gin (concentrators) WHERE cardinality(concentrators) > 1;
"""


class Migration(migrations.Migration):

    replaces = [
        ('concentrators', '0001_initial'),
        ('concentrators', '0002_storage'),
        ('concentrators', '0003_rotation'),
        ('concentrators', '0004_waiting_frames'),
        ('concentrators', '0005_uplink_in_turn'),
        ('concentrators', '0006_registry_generation'),
        ('concentrators', '0007_failure_groups'),
        ('concentrators', '0008_failure_group_triggers'),
        ('concentrators', '0009_interval_lengths'),
        ('concentrators', '0010_as_stored'),
        ('concentrators', '0011_verify_again'),
        ('concentrators', '0012_wave_fleet_key'),
        ('concentrators', '0013_sealed_key_version'),
        ('concentrators', '0014_lasting'),
        ('concentrators', '0015_parked_waits'),
        ('concentrators', '0016_take_back'),
        ('concentrators', '0017_expected_steps'),
        ('concentrators', '0018_large_tables'),
        ('concentrators', '0019_command_schedules'),
        ('concentrators', '0020_waiting_for_ours'),
        ('concentrators', '0021_judged_by_itself'),
        ('concentrators', '0022_names_and_places'),
        ('concentrators', '0023_registry_mismatch'),
        ('concentrators', '0024_names_alike'),
    ]

    initial = True

    dependencies = [
        ('keyvault', '0001_squashed_0014_scheme'),
        ('meters', '0001_squashed_0014_names_alike'),
    ]

    operations = [
        migrations.CreateModel(
            name='Concentrator',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', ami_headend.core.names.NameField(max_length=120, unique=True)),
                ('is_active', models.BooleanField(default=True, help_text='an inactive concentrator is refused at the door')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(ami_headend.core.names.Alike('name'), name='concentrator_name_alike', violation_error_message='There is a concentrator with this name, or one that looks like it, already.')],
            },
        ),
        migrations.CreateModel(
            name='ConcentratorToken',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('digest', models.BinaryField(max_length=32, unique=True)),
                ('label', models.CharField(blank=True, max_length=120)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, help_text='to the minute', null=True)),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tokens', to='concentrators.concentrator')),
            ],
        ),
        migrations.CreateModel(
            name='FailureTally',
            fields=[
                ('pk', models.CompositePrimaryKey('concentrator_id', 'kind', 'hour', blank=True, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=18)),
                ('hour', models.DateTimeField()),
                ('failures', models.BigIntegerField()),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
            ],
            options={
                'indexes': [models.Index(fields=['-hour', 'concentrator', 'kind'], name='failure_tally_by_hour')],
            },
        ),
        migrations.CreateModel(
            name='Uplink',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('received_at', models.DateTimeField()),
                ('sha256', models.BinaryField(max_length=32)),
                ('body', models.BinaryField(null=True)),
                ('octets', models.PositiveIntegerField()),
                ('frames', models.PositiveIntegerField()),
                ('accepted', models.PositiveIntegerField(default=0)),
                ('duplicate', models.PositiveIntegerField(default=0)),
                ('rejected', models.PositiveIntegerField(default=0)),
                ('failures', models.JSONField(default=dict, help_text='rejected frames by kind')),
                ('waiting', models.PositiveIntegerField(default=0, help_text='rejected frames that may be judged again')),
                ('verified_at', models.DateTimeField(null=True)),
                ('attempts', models.PositiveSmallIntegerField(default=0, help_text='failed attempts to verify')),
                ('due_at', models.DateTimeField(help_text='when the sweep enqueues it again, if not verified')),
                ('last_error', models.CharField(blank=True, max_length=500)),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='uplinks', to='concentrators.concentrator')),
                ('waiting_frames', models.JSONField(help_text='indexes of those frames in the uplink, by kind', null=True)),
                ('begun', models.PositiveSmallIntegerField(db_default=0, help_text='times work on it began after the sweep had claimed it')),
                ('claims', models.PositiveSmallIntegerField(db_default=0, help_text='times the sweep enqueued it again')),
                ('progress', models.JSONField(help_text='how far it is, where it is verified piece by piece', null=True)),
                ('corrected_at', models.DateTimeField(help_text="received at, by a right clock, where the head-end's was behind (ClockCorrection)", null=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('verified_at', None)), fields=['due_at'], name='uplink_unverified'), models.Index(condition=models.Q(('body__isnull', False)), fields=['received_at'], name='uplink_kept'), models.Index(fields=['concentrator', '-received_at'], name='uplink_by_concentrator'), models.Index(condition=models.Q(('body__isnull', False), ('waiting__gt', 0)), fields=['id'], name='uplink_waiting'), models.Index(condition=models.Q(('verified_at', None)), fields=['concentrator', 'id'], name='uplink_in_turn'), models.Index(condition=models.Q(('verified_at__isnull', False)), fields=['verified_at'], name='uplink_by_verdict')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('body__isnull', False)), fields=('concentrator', 'sha256'), name='uplink_once'), models.CheckConstraint(condition=models.Q(('verified_at', None), ('frames', django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('accepted'), '+', models.F('duplicate')), '+', models.F('rejected'))), _connector='OR'), name='uplink_verdicts_add_up')],
                'permissions': [('verify_again_uplink', 'Can have frames judged again that wait'), ('correct_clock_uplink', "Can say that the head-end's clock was behind, and have frames judged again")],
            },
        ),
        migrations.CreateModel(
            name='Acknowledgement',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('by', models.CharField(max_length=150)),
                ('at', models.DateTimeField()),
                ('note', models.CharField(max_length=1000)),
                ('selection', models.JSONField(default=dict, help_text='which failures were meant')),
                ('taken_back_at', models.DateTimeField(null=True)),
                ('taken_back_by', models.CharField(blank=True, db_default='', max_length=150)),
            ],
        ),
        migrations.CreateModel(
            name='IntegrityFailure',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('malformed', 'malformed'), ('unknown_device', 'unknown_device'), ('unknown_epoch', 'unknown_epoch'), ('key_retired', 'key_retired'), ('algorithm_mismatch', 'algorithm_mismatch'), ('tag_invalid', 'tag_invalid'), ('replayed', 'replayed'), ('counter_reused', 'counter_reused'), ('counter_too_old', 'counter_too_old'), ('device_suspended', 'device_suspended'), ('payload_invalid', 'payload_invalid'), ('unknown_register', 'unknown_register'), ('registry_mismatch', 'registry_mismatch'), ('implausible', 'implausible'), ('identity_mismatch', 'identity_mismatch'), ('clock_skew', 'clock_skew'), ('too_old', 'too_old'), ('reading_conflict', 'reading_conflict'), ('parked', 'parked')], max_length=18)),
                ('severity', models.SmallIntegerField(choices=[(10, 'info'), (20, 'warning'), (30, 'critical')])),
                ('frame_index', models.PositiveIntegerField(help_text='position of the frame in the uplink, from 0')),
                ('frame', models.BinaryField(help_text='the raw octets, as posted')),
                ('kid', models.BinaryField(help_text='system title and epoch that the frame claims', max_length=10, null=True)),
                ('invocation_counter', models.BigIntegerField(null=True)),
                ('received_at', models.DateTimeField()),
                ('detail', models.CharField(max_length=250)),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='failures', to='concentrators.concentrator')),
                ('meter', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='failures', to='meters.meter')),
                ('uplink', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.uplink')),
                ('acknowledgement', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='failures', to='concentrators.acknowledgement')),
                ('is_open', models.GeneratedField(db_persist=True, expression=models.Q(('acknowledgement__isnull', True)), output_field=models.BooleanField())),
                ('is_copy', models.BooleanField(db_default=False, help_text='the same octets were refused for the same reason before: no failure of its own')),
            ],
            options={
                'indexes': [models.Index(fields=['-received_at', '-id'], name='failure_by_time'), models.Index(fields=['kid', 'invocation_counter'], name='failure_by_counter'), models.Index(fields=['uplink'], name='failure_by_uplink'), models.Index(fields=['kind', 'is_open', '-received_at', '-id'], name='failure_by_kind'), models.Index(fields=['meter', 'kind', 'is_open', '-received_at', '-id'], name='failure_by_meter'), models.Index(fields=['concentrator', 'kind', 'is_open', '-received_at', '-id'], name='failure_by_concentrator'), models.Index(condition=models.Q(('acknowledgement__isnull', False)), fields=['acknowledgement'], name='failure_acknowledged'), models.Index(fields=['kind', 'id'], include=('concentrator', 'meter'), name='failure_as_stored'), models.Index(condition=models.Q(('acknowledgement__isnull', False)), fields=['acknowledgement', 'id'], name='failure_by_acknowledgement'), models.Index(models.Func(models.Func('frame', function='sha256'), models.Value(1), models.Value(16), function='substr'), name='failure_by_digest')],
            },
        ),
        migrations.CreateModel(
            name='Assignment',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('valid_from', models.DateTimeField()),
                ('valid_to', models.DateTimeField(blank=True, null=True)),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='assignments', to='meters.meter')),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='assignments', to='concentrators.concentrator')),
            ],
            options={
                'constraints': [django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(meters.models.SameInteger('meter_id'), '&&'), (meters.models.Period('valid_from', 'valid_to'), '&&')], name='assignment_one_concentrator', violation_error_message='The meter is already assigned in that period.')],
                'indexes': [models.Index(condition=models.Q(('valid_to__isnull', False)), fields=['meter', 'valid_to'], name='assignment_ended')],
            },
        ),
        migrations.CreateModel(
            name='IntervalTotal',
            fields=[
                ('pk', models.CompositePrimaryKey('concentrator_id', 'register_id', 'interval_minutes', 'interval_start', blank=True, editable=False, primary_key=True, serialize=False)),
                ('interval_minutes', models.SmallIntegerField()),
                ('interval_start', models.DateTimeField()),
                ('value_sum', models.DecimalField(decimal_places=0, max_digits=30)),
                ('meters_counted', models.IntegerField()),
                ('concentrator', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
                ('register', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.register')),
            ],
            options={
                'indexes': [models.Index(fields=['interval_start'], name='total_by_time')],
            },
        ),
        migrations.CreateModel(
            name='RotationWave',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=120)),
                ('state', models.CharField(choices=[('running', 'Running'), ('paused', 'Paused'), ('stopped', 'stopped (failure budget spent)'), ('cancelled', 'Cancelled'), ('finished', 'Finished')], default='running', max_length=9)),
                ('rate_per_hour', models.PositiveIntegerField(help_text='key commands queued an hour at most')),
                ('failure_budget', models.PositiveIntegerField(help_text='commands that may fail or expire before the wave stops')),
                ('algorithm', models.PositiveSmallIntegerField(help_text="of the new keys; empty: as the old one's", null=True)),
                ('created_by', models.CharField(max_length=150)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('finished_at', models.DateTimeField(null=True)),
                ('fleet_key', models.ForeignKey(help_text='new keys are derived from it', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keyvault.fleetkey')),
            ],
        ),
        migrations.CreateModel(
            name='Command',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.PositiveSmallIntegerField(choices=[(1, 'set key'), (2, 'read now'), (3, 'resend'), (4, 'set clock'), (5, 'set interval')])),
                ('parameters', models.JSONField(default=dict, help_text='times, lengths, epochs; never a key')),
                ('state', models.CharField(choices=[('queued', 'Queued'), ('offered', 'offered (a concentrator has fetched it)'), ('delivered', 'delivered (the concentrator says so)'), ('done', 'done (the meter says so)'), ('refused', 'refused (the meter says so)'), ('expired', 'Expired'), ('cancelled', 'Cancelled')], default='queued', max_length=9)),
                ('octets', models.BinaryField(null=True)),
                ('kid', models.BinaryField(help_text='sealed under', max_length=10, null=True)),
                ('invocation_counter', models.BigIntegerField(null=True)),
                ('attempts', models.PositiveSmallIntegerField(default=0, help_text="times offered to the meter's concentrator")),
                ('created_by', models.CharField(max_length=150)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('next_attempt_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField()),
                ('offered_at', models.DateTimeField(help_text='first fetched', null=True)),
                ('delivered_at', models.DateTimeField(null=True)),
                ('ended_at', models.DateTimeField(help_text='done, refused, expired or cancelled', null=True)),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='commands', to='meters.meter')),
                ('offered_to', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
                ('entered_at', models.DateTimeField(help_text='set interval: when the registry took the length over', null=True)),
                ('key_version', models.PositiveIntegerField(help_text='of the key that it was sealed under', null=True)),
                ('elsewhere_attempt_at', models.DateTimeField(null=True)),
                ('elsewhere_attempts', models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times offered to another one')),
                ('failed_at', models.DateTimeField(help_text='a concentrator could not pass it on, the last time', null=True)),
                ('failures', models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times a concentrator could not pass it on')),
                ('late_answers', models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times the meter said: it came too late')),
                ('offered_elsewhere_to', models.ForeignKey(db_index=False, help_text='heard the meter last, and is not its own', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('state__in', ['queued', 'offered', 'delivered'])), fields=['meter', 'next_attempt_at'], name='command_open'), models.Index(condition=models.Q(('state__in', ['queued', 'offered', 'delivered'])), fields=['expires_at'], name='command_expiry'), models.Index(condition=models.Q(('entered_at', None), ('kind', 5), models.Q(('state__in', ['refused', 'cancelled']), _negated=True)), fields=['meter'], name='command_announced_length')],
            },
        ),
        migrations.CreateModel(
            name='WaveMeter',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('command', models.OneToOneField(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='wave_meter', to='concentrators.command')),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.meter')),
                ('wave', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='meters', to='concentrators.rotationwave')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('command', None)), fields=['wave', 'id'], name='wave_waiting')],
                'constraints': [models.UniqueConstraint(fields=('wave', 'meter'), name='wave_meter_once')],
            },
        ),
        migrations.CreateModel(
            name='RegistryGeneration',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.BigIntegerField()),
                ('registers', models.BigIntegerField(db_default=0)),
            ],
        ),
        migrations.CreateModel(
            name='FailureGroup',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=18)),
                ('severity', models.SmallIntegerField()),
                ('meter', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.meter')),
                ('concentrator', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
                ('concentrators', django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), size=None)),
                ('failures', models.BigIntegerField()),
                ('open', models.BigIntegerField()),
                ('first_at', models.DateTimeField()),
                ('last_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('open__gt', 0)), fields=['kind', '-last_at', '-id'], name='failure_group_open'), models.Index(condition=models.Q(('open__lte', 0)), fields=['kind', '-last_at', '-id'], name='failure_group_seen')],
                'constraints': [models.UniqueConstraint(fields=('meter', 'kind', 'concentrator'), name='failure_group_once', nulls_distinct=False)],
            },
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
        migrations.CreateModel(
            name='ExpectedStep',
            fields=[
                ('pk', models.CompositePrimaryKey('concentrator_id', 'interval_minutes', 'at', blank=True, editable=False, primary_key=True, serialize=False)),
                ('interval_minutes', models.SmallIntegerField()),
                ('at', models.DateTimeField()),
                ('meters', models.IntegerField()),
                ('concentrator', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
            ],
        ),
        migrations.CreateModel(
            name='StaleSteps',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('concentrator', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
            ],
        ),
        migrations.CreateModel(
            name='ClockCorrection',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('start', models.DateTimeField()),
                ('end', models.DateTimeField()),
                ('behind_s', models.PositiveIntegerField(help_text='seconds that the clock was behind')),
                ('first_uplink', models.BigIntegerField(help_text='uplinks before it are left alone', null=True)),
                ('by', models.CharField(max_length=150)),
                ('at', models.DateTimeField()),
                ('note', models.CharField(max_length=1000)),
            ],
        ),
        migrations.CreateModel(
            name='Reverification',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('cause', models.CharField(help_text='what has come: register, length, meter, key; or all, or clock', max_length=8)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('position', models.BigIntegerField(db_default=0, help_text='uplinks up to this id are done')),
                ('tries', models.PositiveSmallIntegerField(db_default=0, help_text='of the uplink after them, without an end')),
            ],
        ),
        migrations.RunSQL(STORAGE),
        migrations.RunSQL(GROUPS_BY_CONCENTRATOR),
        migrations.RunSQL(_triggers.GENERATION),
        migrations.RunSQL(_triggers.GROUPS),
        migrations.RunSQL(_triggers.STEPS),
        migrations.RunSQL(_triggers.REQUESTS),
    ]
