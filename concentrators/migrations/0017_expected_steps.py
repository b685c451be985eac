"""How many meters are expected, kept in steps, and the triggers that say which of them are stale."""

import django.db.models.deletion
from django.db import migrations, models

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


TRIGGERS = "".join(_function(name, body) for name, body in FUNCTIONS.items())
TRIGGERS += "".join(_trigger(*one) for one in _triggers())
TRIGGERS += "INSERT INTO concentrators_stalesteps (concentrator_id) SELECT id FROM concentrators_concentrator;"
NO_TRIGGERS = "".join(f"DROP TRIGGER concentrators_{name} ON {table};" for name, _, _, table, _ in _triggers())
NO_TRIGGERS += "".join(f"DROP FUNCTION concentrators_{name}();" for name in FUNCTIONS)


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0016_take_back"), ("meters", "0006_names")]
    operations = [
        migrations.CreateModel(
            name="ExpectedStep",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "concentrator_id",
                        "interval_minutes",
                        "at",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("interval_minutes", models.SmallIntegerField()),
                ("at", models.DateTimeField()),
                ("meters", models.IntegerField()),
                (
                    "concentrator",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="concentrators.concentrator",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="StaleSteps",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "concentrator",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="concentrators.concentrator",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
