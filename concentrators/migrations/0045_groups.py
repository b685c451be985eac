"""Concentrators in groups, and triggers that keep which meters are in a group by their present concentrator."""

import django.db.models.deletion
from django.db import migrations, models

TRIGGERS = """
CREATE FUNCTION concentrators_grouped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1634560269);
    IF TG_OP = 'INSERT' THEN
        INSERT INTO meters_meteringroup (group_id, meter_id, via)
        SELECT c.group_id, a.meter_id, 2 FROM changed c
        JOIN concentrators_assignment a ON a.concentrator_id = c.concentrator_id AND a.valid_to IS NULL
        ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM meters_meteringroup m
        USING changed c JOIN concentrators_assignment a ON a.concentrator_id = c.concentrator_id AND a.valid_to IS NULL
        WHERE m.group_id = c.group_id AND m.meter_id = a.meter_id AND m.via = 2;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER concentrators_grouped AFTER INSERT ON concentrators_concentratoringroup
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION concentrators_grouped();
CREATE TRIGGER concentrators_ungrouped AFTER DELETE ON concentrators_concentratoringroup
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION concentrators_grouped();

CREATE FUNCTION concentrators_assignments_grouped() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved int[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1634560269);
    IF NOT EXISTS (SELECT FROM concentrators_concentratoringroup) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        moved := ARRAY(SELECT DISTINCT meter_id FROM after_it);
    ELSIF TG_OP = 'DELETE' THEN
        moved := ARRAY(SELECT DISTINCT meter_id FROM before_it);
    ELSE
        moved := ARRAY(SELECT meter_id FROM before_it UNION SELECT meter_id FROM after_it);
    END IF;
    DELETE FROM meters_meteringroup m WHERE m.meter_id = ANY(moved) AND m.via = 2 AND NOT EXISTS (
        SELECT FROM concentrators_assignment a
        JOIN concentrators_concentratoringroup g ON g.concentrator_id = a.concentrator_id
        WHERE a.meter_id = m.meter_id AND a.valid_to IS NULL AND g.group_id = m.group_id);
    INSERT INTO meters_meteringroup (group_id, meter_id, via)
    SELECT g.group_id, a.meter_id, 2 FROM concentrators_assignment a
    JOIN concentrators_concentratoringroup g ON g.concentrator_id = a.concentrator_id
    WHERE a.meter_id = ANY(moved) AND a.valid_to IS NULL
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER concentrators_grouped_insert AFTER INSERT ON concentrators_assignment
    REFERENCING NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION concentrators_assignments_grouped();
CREATE TRIGGER concentrators_grouped_update AFTER UPDATE ON concentrators_assignment
    REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION concentrators_assignments_grouped();
CREATE TRIGGER concentrators_grouped_delete AFTER DELETE ON concentrators_assignment
    REFERENCING OLD TABLE AS before_it FOR EACH STATEMENT EXECUTE FUNCTION concentrators_assignments_grouped();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0044_listener_figures'),
        ('meters', '0021_groups'),
    ]

    operations = [
        migrations.CreateModel(
            name='ConcentratorInGroup',
            fields=[
                ('pk', models.CompositePrimaryKey('group_id', 'concentrator_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
                ('group', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.fleetgroup')),
            ],
        ),
        migrations.RunSQL(TRIGGERS),
    ]
