"""Uplinks are counted by rows that their verification leaves, no longer by times, which follow clocks that are set."""

from django.db import migrations, models

# The lock waits for all who verify: what they have committed by then is taken over here, the trigger takes the rest.
# The function is the owner's, so that workers can verify before `migrate` has granted their role its rights.
LEFT_BEHIND = """
LOCK TABLE concentrators_uplink IN SHARE ROW EXCLUSIVE MODE;

CREATE FUNCTION metrics_uplink_verified() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO metrics_uncounted (octets, accepted, duplicate, failures, took_s)
    VALUES (NEW.octets, NEW.accepted, NEW.duplicate, NEW.failures,
            greatest(0, extract(epoch FROM NEW.verified_at - NEW.received_at)));
    RETURN NULL;
END $$;

CREATE TRIGGER metrics_uplink_verified AFTER UPDATE OF verified_at ON concentrators_uplink
    FOR EACH ROW WHEN (OLD.verified_at IS NULL AND NEW.verified_at IS NOT NULL)
    EXECUTE FUNCTION metrics_uplink_verified();

-- Whoever counts by time holds this row meanwhile, and finds no time to count from here on.
SELECT id FROM metrics_counted FOR UPDATE;
INSERT INTO metrics_uncounted (octets, accepted, duplicate, failures, took_s)
SELECT octets, accepted, duplicate, failures, greatest(0, extract(epoch FROM verified_at - received_at))
FROM concentrators_uplink WHERE verified_at >= (SELECT until FROM metrics_counted);
UPDATE metrics_counted SET until = '9998-01-01 00:00:00+00';
"""
BY_TIME = """
DROP TRIGGER metrics_uplink_verified ON concentrators_uplink;
DROP FUNCTION metrics_uplink_verified;
UPDATE metrics_counted SET until = clock_timestamp();
"""


class Migration(migrations.Migration):
    dependencies = [("metrics", "0001_squashed_0003_kept"), ("concentrators", "0057_tallies_by_account")]
    operations = [
        migrations.CreateModel(
            name="Uncounted",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("octets", models.PositiveIntegerField()),
                ("accepted", models.PositiveIntegerField()),
                ("duplicate", models.PositiveIntegerField()),
                ("failures", models.JSONField(help_text="rejected frames by kind, as first judged")),
                ("took_s", models.FloatField(help_text="from post to verified, not below 0")),
            ],
        ),
        migrations.AlterField(
            model_name="counted",
            name="until",
            field=models.DateTimeField(
                help_text="far ahead: code of before, which counts by time, counts nothing beside"
            ),
        ),
        migrations.RunSQL(LEFT_BEHIND, BY_TIME),
    ]
