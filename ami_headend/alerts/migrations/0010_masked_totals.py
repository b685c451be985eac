"""Rules for mask authorities that do not answer, and for masked totals that are refused."""

from django.db import migrations, models

from ami_headend.alerts import defaults


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0009_authority_expires'),
    ]

    operations = [
        migrations.AlterField(
            model_name='rule',
            name='condition',
            field=models.CharField(choices=[('failure_rate', 'share of refused frames'), ('kind_seen', 'integrity failures of a kind'), ('meter_event', 'meter events (tamper, cover opened)'), ('silent_meter', 'silent meter'), ('silent_concentrator', 'silent concentrator'), ('completeness', 'completeness of intervals'), ('aggregate_mismatch', 'sums of a concentrator that differ from ours'), ('rotation_stalled', 'stalled rotation'), ('keys_worn', 'device keys due for replacement'), ('agreement_key_in_use', 'replaced agreement key still in use'), ('authority_expires', 'authority about to expire'), ('mask_authority', 'mask authority that does not answer'), ('masked_refused', 'masked totals that are refused'), ('audit_broken', 'broken audit chain'), ('master_key_down', 'unusable master key'), ('queue_lag', 'uplinks that wait too long'), ('backup_overdue', 'overdue backup')], max_length=20),
        ),
        migrations.RunPython(
            defaults.making('Mask authority does not answer', 'Masked totals are refused'), migrations.RunPython.noop
        ),
    ]
