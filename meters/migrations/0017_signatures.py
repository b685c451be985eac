"""Signatures of signed readings, in months as the readings: made and dropped with those."""

import django.db.models.deletion
from django.db import migrations, models

TABLE = """
CREATE TABLE meters_signature (
    captured_at timestamptz NOT NULL,
    meter_id integer NOT NULL,
    epoch integer NOT NULL,
    number bigint NOT NULL,
    uplink_id bigint NOT NULL,
    octets bytea NOT NULL,
    PRIMARY KEY (captured_at, meter_id, epoch, number)
) PARTITION BY RANGE (captured_at);

CREATE OR REPLACE FUNCTION meters_create_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    month text := to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
    beside text;
BEGIN
    IF (start = date_trunc('month', start, 'UTC')
        AND start BETWEEN now() - interval '100 years' AND now() + interval '100 years') IS NOT TRUE THEN
        RAISE EXCEPTION '% does not begin a month that readings may fall in', start;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF meters_reading FOR VALUES FROM (%L) TO (%L)',
                   'meters_reading_' || month, start, following);
    EXECUTE format('COMMENT ON TABLE %I IS %L', 'meters_reading_' || month, 'psqlextra_auto_partitioned');
    FOREACH beside IN ARRAY ARRAY['meters_maskedreading', 'meters_signature'] LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                       beside || '_' || month, beside, start, following);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION meters_drop_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    month text := to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER')
       AND (following > now() - make_interval(days => meters_retention_days())) IS NOT FALSE THEN
        RAISE EXCEPTION 'readings of % are kept for % days', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM'), meters_retention_days()
        USING ERRCODE = 'insufficient_privilege', HINT = 'Where RETENTION_DAYS was lowered, run manage.py grant_rights.';
    END IF;
    EXECUTE format('DROP TABLE %I', 'meters_reading_' || month);
    EXECUTE format('DROP TABLE IF EXISTS %I', 'meters_maskedreading_' || month);
    EXECUTE format('DROP TABLE IF EXISTS %I', 'meters_signature_' || month);
END $$;

DO $$
DECLARE
    name text;
    bound record;
BEGIN
    FOREACH name IN ARRAY ARRAY['meters_create_month(timestamptz)', 'meters_drop_month(timestamptz)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
    FOR bound IN
        SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS of FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'meters_reading'::regclass
    LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF meters_signature %s',
                       replace(bound.relname, 'meters_reading_', 'meters_signature_'), bound.of);
    END LOOP;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("meters", "0016_masked_readings")]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(TABLE)],
            state_operations=[
                migrations.CreateModel(
                    name="Signature",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "captured_at", "meter_id", "epoch", "number",
                                blank=True, editable=False, primary_key=True, serialize=False,
                            ),
                        ),
                        ("captured_at", models.DateTimeField(help_text="the latest time that it says")),
                        ("epoch", models.IntegerField()),
                        ("number", models.BigIntegerField(help_text="of the coupon, 0 to 2^32 - 1")),
                        ("uplink_id", models.BigIntegerField()),
                        ("octets", models.BinaryField(help_text="COSE_Sign1")),
                        (
                            "meter",
                            models.ForeignKey(
                                db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="+", to="meters.meter",
                            ),
                        ),
                    ],
                ),
            ],
        ),
    ]
