"""Keys, counters, audit chain, approvals and backups, as the fourteen migrations before left them."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
import keyvault.models
from django.conf import settings
from django.db import migrations, models

# What stands in the audit chain is not changed, and the chain is not emptied: where one role owns everything, no right
# stands in the way of TRUNCATE. The page of the chain asks by the texts in the subjects.
AUDIT = """
    CREATE FUNCTION keyvault_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit records are append-only';
    END $$;
    CREATE TRIGGER keyvault_audit_append_only BEFORE UPDATE OR DELETE ON keyvault_auditrecord
        FOR EACH ROW EXECUTE FUNCTION keyvault_audit_refuse_change();
    CREATE TRIGGER keyvault_audit_not_emptied BEFORE TRUNCATE ON keyvault_auditrecord
        FOR EACH STATEMENT EXECUTE FUNCTION keyvault_audit_refuse_change();
    CREATE INDEX audit_by_subject ON keyvault_auditrecord USING gin (to_tsvector('simple', subject));
"""
# The key journal's numbers, and the mark of a database into which the journal was replayed: one row of a table without
# a model, which no dump of ``manage.py backup`` holds.
JOURNAL = """
    CREATE SEQUENCE keyvault_journal_number AS bigint;
    CREATE TABLE keyvault_journal_replayed (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        at timestamptz NOT NULL DEFAULT now()
    );
    INSERT INTO keyvault_journal_replayed DEFAULT VALUES;
"""
# Counters change with every uplink: room on the page keeps their updates HOT.
STORAGE = "ALTER TABLE keyvault_invocationcounter SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)"


class Migration(migrations.Migration):

    replaces = [
        ('keyvault', '0001_initial'),
        ('keyvault', '0002_storage'),
        ('keyvault', '0003_audit'),
        ('keyvault', '0004_rotation'),
        ('keyvault', '0005_epochs'),
        ('keyvault', '0006_rights'),
        ('keyvault', '0007_approvals'),
        ('keyvault', '0008_journal'),
        ('keyvault', '0009_signing_secrets'),
        ('keyvault', '0010_backup'),
        ('keyvault', '0011_audit_truncate'),
        ('keyvault', '0012_names'),
        ('keyvault', '0013_audit_by_subject'),
        ('keyvault', '0014_scheme'),
    ]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='FleetKey',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=100, unique=True)),
                ('wrapped', models.BinaryField(help_text='COSE_Encrypt0, A256GCM, kid = master key version')),
                ('master_key_version', models.PositiveIntegerField(db_index=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='DeviceKey',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('system_title', models.BinaryField(help_text='EUI-64, 8 octets', max_length=8)),
                ('epoch', models.PositiveIntegerField(help_text='0 is the transfer key')),
                ('algorithm', models.PositiveSmallIntegerField(choices=[(10, 'AES-CCM-16-64-128'), (11, 'AES-CCM-16-64-256')], default=10)),
                ('state', models.CharField(choices=[('pending', 'Pending'), ('active', 'Active'), ('retiring', 'Retiring'), ('retired', 'Retired'), ('compromised', 'Compromised')], default='active', max_length=11)),
                ('source', models.CharField(choices=[('stored', 'stored (random, wrapped under the master key)'), ('derived', 'derived (from a fleet key and the system title)')], default='stored', max_length=7)),
                ('wrapped', models.BinaryField(null=True)),
                ('master_key_version', models.PositiveIntegerField(db_index=True, null=True)),
                ('version', models.PositiveIntegerField(default=1)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('fleet_key', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, to='keyvault.fleetkey')),
                ('activated_at', models.DateTimeField(help_text='first valid frame', null=True)),
                ('fingerprint', models.BinaryField(help_text='names the key in audit; tells nothing of it', max_length=8, null=True)),
                ('offered_at', models.DateTimeField(help_text='a concentrator has fetched it: the meter may have it', null=True)),
                ('retiring_at', models.DateTimeField(help_text='the next epoch was activated', null=True)),
                ('scheme', models.CharField(db_default='ccm', default='ccm', help_text='the scheme that protects its readings', max_length=32)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('state', 'retiring')), fields=['retiring_at'], name='device_key_retiring')],
                'constraints': [models.UniqueConstraint(fields=('system_title', 'epoch'), name='device_key_kid'), models.UniqueConstraint(condition=models.Q(('epoch__gt', 0), ('state', 'active')), fields=('system_title',), name='device_key_one_active'), models.UniqueConstraint(condition=models.Q(('epoch__gt', 0), ('state', 'pending')), fields=('system_title',), name='device_key_one_pending'), models.CheckConstraint(condition=models.Q(('epoch__lte', 65535)), name='device_key_epoch_2_octets'), models.CheckConstraint(condition=models.Q(models.Q(('fleet_key', None), ('master_key_version__isnull', False), ('source', 'stored'), ('wrapped__isnull', False)), models.Q(('fleet_key__isnull', False), ('master_key_version', None), ('source', 'derived'), ('wrapped', None)), _connector='OR'), name='device_key_source')],
                'permissions': [('provision_devicekey', 'Can give devices keys'), ('rotate_devicekey', 'Can replace device keys by new ones'), ('compromise_devicekey', 'Can cut device keys off for good'), ('export_devicekey', 'Can export device keys, if another person approves')],
            },
        ),
        migrations.CreateModel(
            name='InvocationCounter',
            fields=[
                ('key', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='counter', serialize=False, to='keyvault.devicekey')),
                ('key_version', models.PositiveIntegerField(default=1)),
                ('highest', models.BigIntegerField(default=-1)),
                ('floor', models.BigIntegerField(default=0)),
                ('gaps', keyvault.models.Int8MultiRangeField(db_default=models.Value('{}'))),
                ('heard_at', models.DateTimeField(null=True)),
                ('heard_via', models.IntegerField(null=True)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('floor__lte', django.db.models.expressions.CombinedExpression(models.F('highest'), '+', models.Value(1)))), name='counter_floor')],
                'indexes': [models.Index(condition=models.Q(('heard_via__isnull', False)), fields=['heard_via'], name='counter_heard_via')],
            },
        ),
        migrations.CreateModel(
            name='AuditKey',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wrapped', models.BinaryField()),
                ('master_key_version', models.PositiveIntegerField(db_index=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='AuditRecord',
            fields=[
                ('number', models.BigIntegerField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('actor', models.CharField(help_text='account, or the system user of a command', max_length=150)),
                ('source', models.CharField(help_text='from where: address, or command and host', max_length=100)),
                ('act', models.CharField(max_length=60)),
                ('subject', models.JSONField(default=dict, help_text='keys by id and fingerprint, counts; never octets of keys')),
                ('result', models.CharField(max_length=250)),
                ('mac', models.BinaryField(max_length=32)),
            ],
            options={
                'indexes': [models.Index(fields=['-at'], name='audit_by_time')],
                'permissions': [('export_auditrecord', 'Can verify and export the audit record')],
            },
        ),
        migrations.CreateModel(
            name='DownlinkCounter',
            fields=[
                ('key', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='downlink_counter', serialize=False, to='keyvault.devicekey')),
                ('last', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='TagFailures',
            fields=[
                ('key', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='tag_failures', serialize=False, to='keyvault.devicekey')),
                ('failures', models.BigIntegerField()),
            ],
            options={
                'verbose_name': 'invalid tags by key',
                'verbose_name_plural': 'invalid tags by key',
            },
        ),
        migrations.CreateModel(
            name='Approval',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('act', models.CharField(max_length=60)),
                ('subject', models.JSONField(default=dict)),
                ('requested_by', models.CharField(max_length=150)),
                ('requested_at', models.DateTimeField(auto_now_add=True)),
                ('approved_by', models.CharField(blank=True, max_length=150)),
                ('approved_at', models.DateTimeField(null=True)),
                ('expires_at', models.DateTimeField()),
                ('used_at', models.DateTimeField(null=True)),
                ('approver', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('reason', models.CharField(blank=True, help_text='why it is to be done', max_length=250)),
                ('refused_at', models.DateTimeField(null=True)),
                ('refused_by', models.CharField(blank=True, max_length=150)),
                ('requester', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('approved_by', models.F('requested_by')), _negated=True), name='approval_by_another'), models.CheckConstraint(condition=models.Q(('requester', None), ('approver', None), models.Q(('approver', models.F('requester')), _negated=True), _connector='OR'), name='approval_by_another_account'), models.CheckConstraint(condition=models.Q(('used_at', None), ('approved_at__isnull', False), _connector='OR'), name='approval_first')],
                'indexes': [models.Index(condition=models.Q(('used_at', None)), fields=['expires_at'], name='approval_open')],
                'permissions': [('decide_approval', 'Can approve or refuse what another person asked for')],
            },
        ),
        migrations.CreateModel(
            name='MasterKeyRotation',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('to_version', models.PositiveIntegerField()),
                ('state', models.CharField(choices=[('running', 'Running'), ('stopped', 'Stopped'), ('finished', 'Finished')], default='running', max_length=8)),
                ('batch_size', models.PositiveIntegerField()),
                ('total', models.BigIntegerField(help_text='secrets to rewrap when it began')),
                ('rewrapped', models.BigIntegerField(default=0)),
                ('unreadable', models.BigIntegerField(default=0, help_text='secrets that did not open, and were left as they were')),
                ('last_device_key_id', models.BigIntegerField(default=0, help_text='device keys up to here are done')),
                ('started_at', models.DateTimeField(auto_now_add=True)),
                ('beat_at', models.DateTimeField(help_text='last batch')),
                ('finished_at', models.DateTimeField(null=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('state', 'finished'), _negated=True), fields=('state',), name='rotation_one_at_a_time')],
                'permissions': [('rotate_masterkey', 'Can rotate the master key'), ('destroy_masterkey', 'Can destroy a version of the master key, if another person approves')],
            },
        ),
        migrations.CreateModel(
            name='SigningSecret',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('owner', models.CharField(max_length=100)),
                ('wrapped', models.BinaryField()),
                ('master_key_version', models.PositiveIntegerField(db_index=True)),
                ('created_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField(null=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('expires_at', None)), fields=('owner',), name='signing_secret_one_current')],
            },
        ),
        migrations.CreateModel(
            name='Backup',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=60, unique=True)),
                ('place', models.CharField(help_text='host and folder where it was made', max_length=500)),
                ('made_at', models.DateTimeField()),
                ('journal_number', models.BigIntegerField(help_text='the key journal up to here is in it')),
                ('versions', django.contrib.postgres.fields.ArrayField(base_field=models.PositiveIntegerField(), help_text='master key versions that its secrets are under', size=None)),
                ('active_version', models.PositiveIntegerField(help_text='what came later is under this one, or a later one')),
                ('keep_until', models.DateTimeField()),
                ('sha256', models.BinaryField(max_length=32, null=True)),
                ('octets', models.BigIntegerField(null=True)),
                ('finished_at', models.DateTimeField(help_text='empty: under way, or ended badly', null=True)),
                ('pruned_at', models.DateTimeField(help_text='deleted; it needs nothing any more', null=True)),
            ],
        ),
        migrations.RunSQL(AUDIT),
        migrations.RunSQL(JOURNAL),
        migrations.RunSQL(STORAGE),
    ]
