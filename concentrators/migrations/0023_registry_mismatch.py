"""Frames that do not fit what is registered wait; a change of an interval length has them judged again."""

from django.db import migrations, models

LENGTHS = """
    CREATE FUNCTION concentrators_length_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO concentrators_reverification (cause) VALUES ('length');
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_meter_length_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM after_it a JOIN before_it b USING (id) WHERE a.interval_minutes <> b.interval_minutes) THEN
            INSERT INTO concentrators_reverification (cause) VALUES ('length');
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE OR DELETE ON meters_earlierlength
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_length_changed();
    CREATE TRIGGER concentrators_reverification_of_length AFTER UPDATE ON meters_meter
        REFERENCING NEW TABLE AS after_it OLD TABLE AS before_it
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_meter_length_changed();
"""
NO_LENGTHS = """
    DROP TRIGGER concentrators_reverification ON meters_earlierlength;
    DROP TRIGGER concentrators_reverification_of_length ON meters_meter;
    DROP FUNCTION concentrators_length_changed();
    DROP FUNCTION concentrators_meter_length_changed();
"""
KINDS = (
    "malformed",
    "unknown_device",
    "unknown_epoch",
    "key_retired",
    "algorithm_mismatch",
    "tag_invalid",
    "replayed",
    "counter_reused",
    "counter_too_old",
    "device_suspended",
    "payload_invalid",
    "unknown_register",
    "registry_mismatch",
    "implausible",
    "identity_mismatch",
    "clock_skew",
    "too_old",
    "reading_conflict",
    "parked",
)


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0001_squashed_0022_names_and_places"), ("meters", "0001_squashed_0011_household_access")]
    operations = [
        migrations.AlterField(
            model_name="integrityfailure",
            name="kind",
            field=models.CharField(choices=[(kind, kind) for kind in KINDS], max_length=18),
        ),
        migrations.AlterField(
            model_name="reverification",
            name="cause",
            field=models.CharField(
                help_text="what has come: register, length, meter, key; or all, or clock", max_length=8
            ),
        ),
        migrations.RunSQL(LENGTHS, NO_LENGTHS),
    ]
