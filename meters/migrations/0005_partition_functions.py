"""Partitions of the readings are made and dropped by functions of their owner: who writes readings owns no table.

Others than the owner may drop only what is past the retention, as the owner last set it
(``meters_retention_days``; ``manage.py migrate`` and ``grant_rights`` set it to RETENTION_DAYS).
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION meters_retention_days() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 36525';

CREATE FUNCTION meters_create_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    partition text := 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF (start = date_trunc('month', start, 'UTC')
        AND start BETWEEN now() - interval '100 years' AND now() + interval '100 years') IS NOT TRUE THEN
        RAISE EXCEPTION '% does not begin a month that readings may fall in', start;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF meters_reading FOR VALUES FROM (%L) TO (%L)', partition, start, following);
    EXECUTE format('COMMENT ON TABLE %I IS %L', partition, 'psqlextra_auto_partitioned');
END $$;

CREATE FUNCTION meters_drop_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER')
       AND (following > now() - make_interval(days => meters_retention_days())) IS NOT FALSE THEN
        RAISE EXCEPTION 'readings of % are kept for % days', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM'), meters_retention_days()
        USING ERRCODE = 'insufficient_privilege', HINT = 'Where RETENTION_DAYS was lowered, run manage.py grant_rights.';
    END IF;
    EXECUTE format('DROP TABLE %I', 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM'));
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['meters_create_month(timestamptz)', 'meters_drop_month(timestamptz)'] LOOP
        -- Nothing that a caller has in its own search path may take the place of what the functions name.
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
"""

DROP = """
DROP FUNCTION meters_drop_month(timestamptz);
DROP FUNCTION meters_create_month(timestamptz);
DROP FUNCTION meters_retention_days();
"""


class Migration(migrations.Migration):
    dependencies = [("meters", "0004_interval_lengths")]
    operations = [migrations.RunSQL(CREATE, DROP)]
