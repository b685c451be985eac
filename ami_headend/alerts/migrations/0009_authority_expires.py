"""A rule for authorities that are about to expire."""

from django.db import migrations, models

from ami_headend.alerts import defaults


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0008_aggregate_mismatch'),
    ]

    operations = [
        migrations.AlterField(
            model_name='alert',
            name='subject_kind',
            field=models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('agreement', 'agreement key'), ('authority', 'authority'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12),
        ),
        migrations.AlterField(
            model_name='gatheredsubjects',
            name='kind',
            field=models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('agreement', 'agreement key'), ('authority', 'authority'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12),
        ),
        migrations.AlterField(
            model_name='rule',
            name='condition',
            field=models.CharField(choices=[('failure_rate', 'share of refused frames'), ('kind_seen', 'integrity failures of a kind'), ('meter_event', 'meter events (tamper, cover opened)'), ('silent_meter', 'silent meter'), ('silent_concentrator', 'silent concentrator'), ('completeness', 'completeness of intervals'), ('aggregate_mismatch', 'sums of a concentrator that differ from ours'), ('rotation_stalled', 'stalled rotation'), ('keys_worn', 'device keys due for replacement'), ('agreement_key_in_use', 'replaced agreement key still in use'), ('authority_expires', 'authority about to expire'), ('audit_broken', 'broken audit chain'), ('master_key_down', 'unusable master key'), ('queue_lag', 'uplinks that wait too long'), ('backup_overdue', 'overdue backup')], max_length=20),
        ),
        migrations.RunPython(defaults.making('Authority is about to expire'), migrations.RunPython.noop),
    ]
