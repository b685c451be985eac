"""The record of who looked at households is written and cleared by functions of its owner: others may add and read.

Within an hour looks are counted in one row, which takes an update, and what is old is removed. The functions do both and
nothing else; others than the owner remove only what is past the days that the owner last set
(``meters_access_days``; ``manage.py migrate`` and ``grant_rights`` set it to ACCESS_KEEP_DAYS). A place that is
removed leaves its number in the record.
"""

import django.db.models.deletion
from django.db import migrations, models

CREATE = """
CREATE FUNCTION meters_access_days() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 36525';

CREATE FUNCTION meters_note_accesses(
    of_hour timestamptz, of_account text, of_door text, of_meters integer[], of_places bigint[], at timestamptz
) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO meters_householdaccess (hour, account, door, meter_id, place_id, requests, first_at, last_at)
    SELECT of_hour, of_account, of_door, meter, place, 1, at, at
    FROM unnest(of_meters, of_places) AS seen (meter, place)
    ON CONFLICT ON CONSTRAINT household_access_once_an_hour
    DO UPDATE SET requests = meters_householdaccess.requests + 1,
                  last_at = greatest(meters_householdaccess.last_at, excluded.last_at)
$$;

CREATE FUNCTION meters_purge_accesses(before timestamptz) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    removed bigint;
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER') THEN
        before := least(before, now() - make_interval(days => meters_access_days()));
    END IF;
    DELETE FROM meters_householdaccess WHERE last_at < before;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'meters_note_accesses(timestamptz, text, text, integer[], bigint[], timestamptz)',
        'meters_purge_accesses(timestamptz)'
    ] LOOP
        -- Nothing that a caller has in its own search path may take the place of what the functions name.
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
"""

DROP = """
DROP FUNCTION meters_purge_accesses(timestamptz);
DROP FUNCTION meters_note_accesses(timestamptz, text, text, integer[], bigint[], timestamptz);
DROP FUNCTION meters_access_days();
"""


class Migration(migrations.Migration):
    dependencies = [("meters", "0001_squashed_0011_household_access")]
    operations = [
        migrations.AlterField(
            model_name="householdaccess",
            name="place",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="meters.place",
            ),
        ),
        migrations.RunSQL(CREATE, DROP),
    ]
