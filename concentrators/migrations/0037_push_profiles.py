"""A new push profile: workers read the profiles again, and frames that waited for it are judged again."""

from django.db import migrations, models

TRIGGER = """
    CREATE FUNCTION concentrators_profile_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE concentrators_registrygeneration SET registers = floor(random() * 9e15)::bigint;
        INSERT INTO concentrators_reverification (cause) VALUES ('profile');
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE ON meters_pushprofile
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_profile_came();
"""
BACK = """
    DROP TRIGGER concentrators_reverification ON meters_pushprofile;
    DROP FUNCTION concentrators_profile_came();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0036_signed_kinds'),
        ('meters', '0018_push_profiles'),
    ]

    operations = [
        migrations.AlterField(
            model_name='integrityfailure',
            name='kind',
            field=models.CharField(choices=[('malformed', 'malformed'), ('unknown_device', 'unknown_device'), ('unknown_epoch', 'unknown_epoch'), ('key_retired', 'key_retired'), ('algorithm_mismatch', 'algorithm_mismatch'), ('tag_invalid', 'tag_invalid'), ('replayed', 'replayed'), ('counter_reused', 'counter_reused'), ('counter_too_old', 'counter_too_old'), ('session_closed', 'session_closed'), ('device_suspended', 'device_suspended'), ('payload_invalid', 'payload_invalid'), ('unknown_profile', 'unknown_profile'), ('unknown_register', 'unknown_register'), ('registry_mismatch', 'registry_mismatch'), ('implausible', 'implausible'), ('identity_mismatch', 'identity_mismatch'), ('clock_skew', 'clock_skew'), ('too_old', 'too_old'), ('reading_conflict', 'reading_conflict'), ('certificate_invalid', 'certificate_invalid'), ('certificate_expired', 'certificate_expired'), ('certificate_revoked', 'certificate_revoked'), ('already_enrolled', 'already_enrolled'), ('coupon_unknown', 'coupon_unknown'), ('signature_invalid', 'signature_invalid'), ('coupon_reused', 'coupon_reused'), ('parked', 'parked')], max_length=24),
        ),
        migrations.AlterField(
            model_name='reverification',
            name='cause',
            field=models.CharField(help_text='what has come: profile, register, length, meter, key; or all, or clock', max_length=8),
        ),
        migrations.RunSQL(TRIGGER, BACK),
    ]
