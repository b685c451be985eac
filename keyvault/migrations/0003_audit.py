"""The audit chain, and a trigger that refuses to change what stands in it."""

from django.db import migrations, models

REFUSE_CHANGE = """
    CREATE FUNCTION keyvault_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit records are append-only';
    END $$;
    CREATE TRIGGER keyvault_audit_append_only BEFORE UPDATE OR DELETE ON keyvault_auditrecord
        FOR EACH ROW EXECUTE FUNCTION keyvault_audit_refuse_change();
"""
ALLOW_CHANGE = """
    DROP TRIGGER keyvault_audit_append_only ON keyvault_auditrecord;
    DROP FUNCTION keyvault_audit_refuse_change();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0002_storage'),
    ]

    operations = [
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
            },
        ),
        migrations.RunSQL(REFUSE_CHANGE, ALLOW_CHANGE),
    ]
