"""Old rows of the record of access to household data go in batches, so that no transaction deletes very many."""

from django.db import migrations

_FUNCTION = """
CREATE OR REPLACE FUNCTION meters_purge_accesses(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    removed bigint;
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER') THEN
        before := least(before, now() - make_interval(days => meters_access_days()));
    END IF;
    DELETE FROM meters_householdaccess WHERE {which};
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
DO $$
BEGIN
    -- Nothing that a caller has in its own search path may take the place of what the function names.
    EXECUTE format('ALTER FUNCTION meters_purge_accesses(timestamptz) SET search_path = %I, pg_temp', current_schema());
END $$;
"""
_BATCH = "id IN (SELECT id FROM meters_householdaccess WHERE last_at < before ORDER BY last_at LIMIT 10000)"


class Migration(migrations.Migration):
    dependencies = [("meters", "0029_archive_defaults")]
    operations = [
        migrations.RunSQL(_FUNCTION.format(which=_BATCH), _FUNCTION.format(which="last_at < before")),
    ]
