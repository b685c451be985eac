"""Rules for components that are not well."""

from django.db import migrations, models

from ami_headend.alerts import defaults


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0019_registers_differ'),
    ]

    operations = [
        migrations.AlterField(
            model_name='alert',
            name='subject_kind',
            field=models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('agreement', 'agreement key'), ('authority', 'authority'), ('component', 'component'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12),
        ),
        migrations.AlterField(
            model_name='gatheredsubjects',
            name='kind',
            field=models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('agreement', 'agreement key'), ('authority', 'authority'), ('component', 'component'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12),
        ),
        migrations.AlterField(
            model_name='rule',
            name='condition',
            field=models.CharField(choices=[('failure_rate', 'share of refused frames'), ('kind_seen', 'integrity failures of a kind'), ('meter_event', 'meter events (tamper, cover opened)'), ('outage', 'meters of a concentrator without power'), ('silent_meter', 'silent meter'), ('silent_concentrator', 'silent concentrator'), ('completeness', 'completeness of intervals'), ('read_deadline', 'readings that were not there by a deadline'), ('aggregate_mismatch', 'sums of a concentrator that differ from ours'), ('registers_differ', 'meters whose registers and intervals differ'), ('rotation_stalled', 'stalled rotation'), ('keys_worn', 'device keys due for replacement'), ('agreement_key_in_use', 'replaced agreement key still in use'), ('authority_expires', 'authority about to expire'), ('mask_authority', 'mask authority that does not answer'), ('masked_refused', 'masked totals that are refused'), ('feed_lag', 'consumer of the feed that lags'), ('coupons_out', 'meter without coupons'), ('audit_broken', 'broken audit chain'), ('master_key_down', 'unusable master key'), ('queue_lag', 'uplinks that wait too long'), ('backup_overdue', 'overdue backup'), ('api_token_expires', 'token of a program about to expire'), ('siem_behind', 'security events that wait for the SIEM'), ('commands_held', 'commands that wait for a second person'), ('component_down', 'component that is not well')], max_length=20),
        ),
        migrations.RunPython(
            defaults.making('Component stands still', 'Component is not well'), migrations.RunPython.noop
        ),
    ]
