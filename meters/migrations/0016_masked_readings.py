"""Masked values, stored apart from readings, in partitions that are made and dropped with theirs; groups of masks."""

import django.db.models.deletion
from django.db import migrations, models

MASKED = """
CREATE TABLE meters_maskedreading (
    captured_at timestamptz NOT NULL,
    value bigint NOT NULL,
    uplink_id bigint NOT NULL,
    set_id bigint,
    received_at timestamptz NOT NULL DEFAULT now(),
    meter_id integer NOT NULL,
    register_id smallint NOT NULL,
    interval_minutes smallint NOT NULL,
    scheme smallint NOT NULL,
    PRIMARY KEY (captured_at, meter_id, register_id)
) PARTITION BY RANGE (captured_at);
CREATE INDEX masked_reading_in_no_set ON meters_maskedreading (captured_at, register_id) WHERE set_id IS NULL;

CREATE OR REPLACE FUNCTION meters_create_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    month text := to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
    partition text := 'meters_reading_' || month;
BEGIN
    IF (start = date_trunc('month', start, 'UTC')
        AND start BETWEEN now() - interval '100 years' AND now() + interval '100 years') IS NOT TRUE THEN
        RAISE EXCEPTION '% does not begin a month that readings may fall in', start;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF meters_reading FOR VALUES FROM (%L) TO (%L)', partition, start, following);
    EXECUTE format('COMMENT ON TABLE %I IS %L', partition, 'psqlextra_auto_partitioned');
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF meters_maskedreading FOR VALUES FROM (%L) TO (%L)',
                   'meters_maskedreading_' || month, start, following);
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
        EXECUTE format('CREATE TABLE %I PARTITION OF meters_maskedreading %s',
                       replace(bound.relname, 'meters_reading_', 'meters_maskedreading_'), bound.of);
    END LOOP;
END $$;
"""
READING = dict(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name="+")


class Migration(migrations.Migration):
    dependencies = [("meters", "0015_reading_scheme")]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(MASKED)],
            state_operations=[
                migrations.CreateModel(
                    name="MaskedReading",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "captured_at", "meter_id", "register_id", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("captured_at", models.DateTimeField()),
                        ("value", models.BigIntegerField(help_text="the masked value, as a signed number of 64 bits")),
                        ("uplink_id", models.BigIntegerField()),
                        ("set_id", models.BigIntegerField(help_text="the set that its total is of", null=True)),
                        ("received_at", models.DateTimeField()),
                        ("interval_minutes", models.SmallIntegerField()),
                        ("scheme", models.SmallIntegerField()),
                        ("meter", models.ForeignKey(to="meters.meter", **READING)),
                        ("register", models.ForeignKey(to="meters.register", **READING)),
                    ],
                ),
            ],
        ),
        migrations.AddField(
            model_name="meter",
            name="mask_group",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="the mask authorities that it was made with",
                max_length=60,
            ),
        ),
    ]
