"""Triggers that have waiting frames judged again, copies that count as no failure, and what was refused before."""

from importlib import import_module

from django.db import migrations

_groups = import_module("concentrators.migrations.0008_failure_group_triggers")

REQUESTS = """
    CREATE FUNCTION concentrators_register_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE concentrators_registrygeneration SET registers = floor(random() * 9e15)::bigint;
        INSERT INTO concentrators_reverification (cause) VALUES ('register');
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_meter_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO concentrators_reverification (cause) VALUES ('meter');
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_meter_came_back() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM after_it a JOIN before_it b USING (id)
                   WHERE a.status = 'commissioned' AND b.status <> 'commissioned') THEN
            INSERT INTO concentrators_reverification (cause) VALUES ('meter');
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_key_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- A pending one was made here, and no meter has it yet; or import_keys verifies again by itself.
        IF EXISTS (SELECT FROM added WHERE state = 'active' AND epoch > 0) THEN
            INSERT INTO concentrators_reverification (cause) VALUES ('key');
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE ON meters_register
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_register_came();
    CREATE TRIGGER concentrators_reverification AFTER INSERT ON meters_meter
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_meter_came();
    CREATE TRIGGER concentrators_reverification_of_resumed AFTER UPDATE ON meters_meter
        REFERENCING NEW TABLE AS after_it OLD TABLE AS before_it
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_meter_came_back();
    CREATE TRIGGER concentrators_reverification AFTER INSERT ON keyvault_devicekey
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION concentrators_key_came();
"""
NO_REQUESTS = """
    DROP TRIGGER concentrators_reverification ON meters_register;
    DROP TRIGGER concentrators_reverification ON meters_meter;
    DROP TRIGGER concentrators_reverification_of_resumed ON meters_meter;
    DROP TRIGGER concentrators_reverification ON keyvault_devicekey;
    DROP FUNCTION concentrators_register_came();
    DROP FUNCTION concentrators_meter_came();
    DROP FUNCTION concentrators_meter_came_back();
    DROP FUNCTION concentrators_key_came();
"""


def _groups_of(condition: str) -> str:
    """The functions that count failures into groups, those rows alone that fulfil the condition."""
    functions = _groups.TRIGGERS.partition("CREATE TRIGGER")[0].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    for rows in ("added", "before_it", "after_it", "removed"):
        functions = functions.replace(f"FROM {rows} GROUP BY", f"FROM {rows} {condition} GROUP BY")
    return functions


# The counters of these are taken: the same octets are refused again for the same reason, and wait for nothing.
REFUSED_BEFORE = """
    INSERT INTO concentrators_refusedframe (kid, invocation_counter, digest, kind, received_at)
    SELECT DISTINCT ON (1, 2, 3) kid, invocation_counter, substr(sha256(frame), 1, 16), kind, received_at
    FROM concentrators_integrityfailure
    WHERE kind = 'clock_skew' AND kid IS NOT NULL AND invocation_counter IS NOT NULL
    ORDER BY 1, 2, 3, id ON CONFLICT DO NOTHING
"""
# Those of suspended meters are not: they wait now, where the octets are kept and every one of them has its row.
SUSPENDED_BEFORE = """
    UPDATE concentrators_uplink u
    SET waiting = u.waiting + jsonb_array_length(w.indexes),
        waiting_frames = coalesce(u.waiting_frames, '{}') || jsonb_build_object('device_suspended', w.indexes)
    FROM (SELECT f.uplink_id, count(*) AS n,
                 jsonb_agg(f.frame_index ORDER BY f.frame_index) FILTER (WHERE m.status <> 'retired') AS indexes
          FROM concentrators_integrityfailure f JOIN meters_meter m ON m.id = f.meter_id
          WHERE f.kind = 'device_suspended' GROUP BY f.uplink_id) AS w
    WHERE u.id = w.uplink_id AND u.body IS NOT NULL AND u.verified_at IS NOT NULL
          AND (u.waiting = 0 OR u.waiting_frames IS NOT NULL) AND w.indexes IS NOT NULL
          AND (u.failures ->> 'device_suspended')::int = w.n
"""
ALL_THAT_WAITS = "INSERT INTO concentrators_reverification (cause) VALUES ('all')"


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0020_waiting_for_ours"), ("meters", "0009_bounds")]
    operations = [
        migrations.RunSQL(REQUESTS, NO_REQUESTS),
        migrations.RunSQL(_groups_of("WHERE NOT is_copy"), _groups_of("")),
        migrations.RunSQL(REFUSED_BEFORE, migrations.RunSQL.noop),
        migrations.RunSQL(SUSPENDED_BEFORE, migrations.RunSQL.noop),
        migrations.RunSQL(ALL_THAT_WAITS, migrations.RunSQL.noop),
    ]
