"""Months of readings that go into the archive: they are closed, written to files, and dropped."""

from django.db import migrations, models

FUNCTIONS = """
-- After how many days the workers' role may close a month, as the owner last set it (manage.py grant_rights).
CREATE FUNCTION meters_archive_days() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 365';

-- From here on the partition takes no row and no change; what it holds is not looked at.
CREATE FUNCTION meters_close_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    month text := to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER')
       AND (following > now() - make_interval(days => meters_archive_days())) IS NOT FALSE THEN
        RAISE EXCEPTION 'readings of % are younger than % days', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM'), meters_archive_days()
        USING ERRCODE = 'insufficient_privilege', HINT = 'Where ARCHIVE_AFTER_MONTHS was lowered, run manage.py grant_rights.';
    END IF;
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS closed', 'meters_reading_' || month);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT closed CHECK (false) NOT VALID', 'meters_reading_' || month);
END $$;

CREATE FUNCTION meters_archive_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    partition text := 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF NOT EXISTS (SELECT FROM meters_archivedmonth WHERE month = start AND state = 'written')
       OR NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(partition) AND conname = 'closed') THEN
        RAISE EXCEPTION '% is not closed and written to files', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM')
        USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
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
    EXECUTE format('DROP TABLE IF EXISTS %I', 'meters_reading_' || month);
    EXECUTE format('DROP TABLE IF EXISTS %I', 'meters_maskedreading_' || month);
    EXECUTE format('DROP TABLE IF EXISTS %I', 'meters_signature_' || month);
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'meters_close_month(timestamptz)', 'meters_archive_month(timestamptz)', 'meters_drop_month(timestamptz)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("meters", "0023_events_of_a_meter")]
    operations = [
        migrations.CreateModel(
            name="ArchivedMonth",
            fields=[
                ("month", models.DateTimeField(help_text="its first instant, UTC", primary_key=True, serialize=False)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("closed", "Closed"), ("written", "Written"), ("archived", "Archived"),
                            ("restored", "Restored"), ("forgotten", "Forgotten"),
                        ],
                        max_length=9,
                    ),
                ),
                ("parts", models.JSONField(default=list)),
                ("registers", models.JSONField(default=dict)),
                ("changed_at", models.DateTimeField()),
            ],
        ),
        migrations.RunSQL(FUNCTIONS, migrations.RunSQL.noop),
    ]
