"""Months of readings that come back from files day by day."""

from django.db import migrations, models

# The partition of a month that is being restored goes, too: its readings are all in files.
FUNCTION = """
CREATE OR REPLACE FUNCTION meters_archive_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    partition text := 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF NOT EXISTS (SELECT FROM meters_archivedmonth WHERE month = start AND state IN ('written', 'restoring'))
       OR NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(partition) AND conname = 'closed') THEN
        RAISE EXCEPTION '% is not closed and written to files', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM')
        USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION meters_archive_month(timestamptz) SET search_path = %I, pg_temp', current_schema());
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("meters", "0026_archive_rounds")]
    operations = [
        migrations.AlterField(
            model_name="archivedmonth",
            name="state",
            field=models.CharField(
                choices=[
                    ("closed", "Closed"),
                    ("written", "Written"),
                    ("archived", "Archived"),
                    ("restoring", "Restoring"),
                    ("restored", "Restored"),
                    ("forgotten", "Forgotten"),
                ],
                max_length=9,
            ),
        ),
        migrations.RunSQL(FUNCTION, migrations.RunSQL.noop),
    ]
