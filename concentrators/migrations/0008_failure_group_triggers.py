"""Triggers keep the counts of failures by meter and kind."""

from django.db import migrations

# Rows of one group, in the order of its key: the same order in every transaction.
COUNTED = """
    SELECT kind, max(severity) AS severity, meter_id, CASE WHEN meter_id IS NULL THEN concentrator_id END AS concentrator,
           array_agg(DISTINCT concentrator_id) AS concentrators, count(*) AS failures,
           count(*) FILTER (WHERE is_open) AS open, min(received_at) AS first_at, max(received_at) AS last_at
    FROM {rows} GROUP BY kind, meter_id, 4 ORDER BY kind, meter_id, 4
"""
INTO_GROUPS = """
    INSERT INTO concentrators_failuregroup AS g
        (kind, severity, meter_id, concentrator_id, concentrators, failures, open, first_at, last_at)
"""
ADD = f"""
    {INTO_GROUPS} {COUNTED}
    ON CONFLICT (meter_id, kind, concentrator_id) DO UPDATE SET
        failures = g.failures + excluded.failures, open = g.open + excluded.open,
        first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at),
        concentrators = CASE WHEN g.concentrators @> excluded.concentrators THEN g.concentrators
                             ELSE ARRAY(SELECT unnest(g.concentrators || excluded.concentrators) GROUP BY 1) END;
"""
# Takes from groups that stand: the upsert is how their key, which has NULLs, is found by its index.
TAKE = f"""
    {INTO_GROUPS} SELECT kind, severity, meter_id, concentrator, concentrators, -failures, -open, first_at, last_at
    FROM ({COUNTED}) AS counted
    ON CONFLICT (meter_id, kind, concentrator_id) DO UPDATE SET
        failures = g.failures + excluded.failures, open = g.open + excluded.open
"""
# The earliest and the latest that is left of a group, each by the ends of two index ranges.
ENDS = """
    SELECT min(received_at) AS first_at, max(received_at) AS last_at INTO ends
    FROM unnest(ARRAY[true, false]) AS state(is_open),
    LATERAL (
        (SELECT received_at FROM concentrators_integrityfailure
         WHERE {of_group} AND kind = grp.kind AND is_open = state.is_open
         ORDER BY received_at DESC, id DESC LIMIT 1)
        UNION ALL
        (SELECT received_at FROM concentrators_integrityfailure
         WHERE {of_group} AND kind = grp.kind AND is_open = state.is_open
         ORDER BY received_at, id LIMIT 1)
    ) AS of_state
"""
TRIGGERS = f"""
    CREATE FUNCTION concentrators_failures_added() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {ADD.format(rows="added")}
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_failures_moved() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {TAKE.format(rows="before_it")};
        {ADD.format(rows="after_it")}
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_failures_removed() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        grp concentrators_failuregroup%ROWTYPE;
        ends record;
    BEGIN
        FOR grp IN {TAKE.format(rows="removed")} RETURNING * LOOP
            IF grp.failures <= 0 THEN
                DELETE FROM concentrators_failuregroup WHERE id = grp.id;
                CONTINUE;
            ELSIF grp.meter_id IS NULL THEN
                {ENDS.format(of_group="concentrator_id = grp.concentrator_id AND meter_id IS NULL")};
            ELSE
                {ENDS.format(of_group="meter_id = grp.meter_id")};
            END IF;
            UPDATE concentrators_failuregroup SET first_at = ends.first_at, last_at = ends.last_at WHERE id = grp.id;
        END LOOP;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_failures_added AFTER INSERT ON concentrators_integrityfailure
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION concentrators_failures_added();
    CREATE TRIGGER concentrators_failures_moved AFTER UPDATE ON concentrators_integrityfailure
        REFERENCING NEW TABLE AS after_it OLD TABLE AS before_it
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_failures_moved();
    CREATE TRIGGER concentrators_failures_removed AFTER DELETE ON concentrators_integrityfailure
        REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION concentrators_failures_removed();
    {ADD.format(rows="concentrators_integrityfailure")}
"""
NO_TRIGGERS = "\n".join(
    f"DROP TRIGGER concentrators_failures_{event} ON concentrators_integrityfailure;"
    f"DROP FUNCTION concentrators_failures_{event}();"
    for event in ("added", "moved", "removed")
)


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0007_failure_groups")]
    operations = [migrations.RunSQL(TRIGGERS, NO_TRIGGERS)]
