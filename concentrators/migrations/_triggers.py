"""Triggers of this app's first migration: the registry's generation, groups of failures, expected steps, new verdicts.

They stand on tables of meters and keyvault, too: those apps know nothing of them.
"""

GENERATION = """
    CREATE FUNCTION concentrators_move_generation() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE concentrators_registrygeneration SET number = floor(random() * 9e15)::bigint;
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_length_told() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM told WHERE kind = 5) THEN
            UPDATE concentrators_registrygeneration SET number = floor(random() * 9e15)::bigint;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_generation AFTER UPDATE OR DELETE OR TRUNCATE ON meters_meter
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
    CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON concentrators_assignment
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
    CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meters_earlierlength
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
    CREATE TRIGGER concentrators_generation AFTER INSERT ON concentrators_command
        REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION concentrators_length_told();
    INSERT INTO concentrators_registrygeneration (number) VALUES (floor(random() * 9e15)::bigint);
"""

# Rows of one group, without copies that count as no failure, in the order of its key: the same order in every transaction.
COUNTED = """
    SELECT kind, max(severity) AS severity, meter_id, CASE WHEN meter_id IS NULL THEN concentrator_id END AS concentrator,
           array_agg(DISTINCT concentrator_id) AS concentrators, count(*) AS failures,
           count(*) FILTER (WHERE is_open) AS open, min(received_at) AS first_at, max(received_at) AS last_at
    FROM {rows} WHERE NOT is_copy GROUP BY kind, meter_id, 4 ORDER BY kind, meter_id, 4
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
GROUPS = f"""
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
"""

# Of the meters of some rows: every concentrator that one of them belongs to, or did.
MARK = """
    INSERT INTO concentrators_stalesteps (concentrator_id)
    SELECT DISTINCT a.concentrator_id FROM concentrators_assignment a WHERE a.meter_id IN ({meters});
"""
# A deleted assignment is no longer there to be found by its meter.
MARK_DELETED = "INSERT INTO concentrators_stalesteps (concentrator_id) SELECT DISTINCT concentrator_id FROM before_it;"
TABLES = ("concentrators_assignment", "meters_installation", "meters_earlierlength")


def _function(name: str, body: str) -> str:
    return f"""
    CREATE FUNCTION concentrators_{name}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {body}
        RETURN NULL;
    END $$;"""


def _trigger(name: str, function: str, event: str, table: str, rows: str) -> str:
    return f"""
    CREATE TRIGGER concentrators_{name} AFTER {event} ON {table} {rows}
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_{function}();"""


NEW, OLD = "REFERENCING NEW TABLE AS after_it", "REFERENCING OLD TABLE AS before_it"
BOTH = f"{NEW} OLD TABLE AS before_it"
INSERTED = MARK.format(meters="SELECT meter_id FROM after_it")
DELETED = MARK.format(meters="SELECT meter_id FROM before_it")
UPDATED = MARK.format(meters="SELECT meter_id FROM after_it UNION SELECT meter_id FROM before_it")
METERS = MARK.format(
    meters="""SELECT n.id FROM after_it n JOIN before_it o ON o.id = n.id
        WHERE (n.commissioned_at, n.retired_at, n.interval_minutes)
            IS DISTINCT FROM (o.commissioned_at, o.retired_at, o.interval_minutes)"""
)
FUNCTIONS = {
    "steps_inserted": INSERTED,
    "steps_updated": UPDATED,
    "steps_deleted": DELETED,
    "steps_of_assignments_updated": UPDATED + MARK_DELETED,
    "steps_of_assignments_deleted": DELETED + MARK_DELETED,
    "steps_of_meters": METERS,
}


def _triggers() -> list[tuple[str, str, str, str, str]]:
    found = [("steps_updated", "steps_of_meters", "UPDATE", "meters_meter", BOTH)]
    for table in TABLES:
        of = "steps_of_assignments_" if table == TABLES[0] else "steps_"
        found += [
            ("steps_inserted", "steps_inserted", "INSERT", table, NEW),
            ("steps_updated", f"{of}updated", "UPDATE", table, BOTH),
            ("steps_deleted", f"{of}deleted", "DELETE", table, OLD),
        ]
    return found


STEPS = "".join(_function(name, body) for name, body in FUNCTIONS.items())
STEPS += "".join(_trigger(*one) for one in _triggers())

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
    CREATE FUNCTION concentrators_length_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO concentrators_reverification (cause) VALUES ('length');
        RETURN NULL;
    END $$;
    CREATE FUNCTION concentrators_meter_length_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM after_it a JOIN before_it b USING (id) WHERE a.interval_minutes <> b.interval_minutes) THEN
            INSERT INTO concentrators_reverification (cause) VALUES ('length');
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
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE OR DELETE ON meters_earlierlength
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_length_changed();
    CREATE TRIGGER concentrators_reverification_of_length AFTER UPDATE ON meters_meter
        REFERENCING NEW TABLE AS after_it OLD TABLE AS before_it
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_meter_length_changed();
"""
