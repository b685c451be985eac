"""Groups and tags, and triggers that keep which meters are in a group by their present place.

Who changes the members of groups holds lock GROUPS (ami_headend/core/locks.py) alone, who installs meters shares it:
so that each sees what the other has committed.
"""

import ami_headend.core.names
import django.db.models.deletion
from django.db import migrations, models

TRIGGERS = """
CREATE FUNCTION meters_places_grouped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1634560269);
    IF TG_OP = 'INSERT' THEN
        INSERT INTO meters_meteringroup (group_id, meter_id, via)
        SELECT c.group_id, i.meter_id, 1 FROM changed c
        JOIN meters_installation i ON i.place_id = c.place_id AND i.removed_at IS NULL
        ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM meters_meteringroup m
        USING changed c JOIN meters_installation i ON i.place_id = c.place_id AND i.removed_at IS NULL
        WHERE m.group_id = c.group_id AND m.meter_id = i.meter_id AND m.via = 1;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER meters_grouped AFTER INSERT ON meters_placeingroup
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION meters_places_grouped();
CREATE TRIGGER meters_ungrouped AFTER DELETE ON meters_placeingroup
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION meters_places_grouped();

CREATE FUNCTION meters_installations_grouped() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved int[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1634560269);
    IF NOT EXISTS (SELECT FROM meters_placeingroup) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        moved := ARRAY(SELECT DISTINCT meter_id FROM after_it);
    ELSIF TG_OP = 'DELETE' THEN
        moved := ARRAY(SELECT DISTINCT meter_id FROM before_it);
    ELSE
        moved := ARRAY(SELECT meter_id FROM before_it UNION SELECT meter_id FROM after_it);
    END IF;
    DELETE FROM meters_meteringroup m WHERE m.meter_id = ANY(moved) AND m.via = 1 AND NOT EXISTS (
        SELECT FROM meters_installation i JOIN meters_placeingroup p ON p.place_id = i.place_id
        WHERE i.meter_id = m.meter_id AND i.removed_at IS NULL AND p.group_id = m.group_id);
    INSERT INTO meters_meteringroup (group_id, meter_id, via)
    SELECT p.group_id, i.meter_id, 1 FROM meters_installation i JOIN meters_placeingroup p ON p.place_id = i.place_id
    WHERE i.meter_id = ANY(moved) AND i.removed_at IS NULL
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER meters_grouped_insert AFTER INSERT ON meters_installation
    REFERENCING NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION meters_installations_grouped();
CREATE TRIGGER meters_grouped_update AFTER UPDATE ON meters_installation
    REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION meters_installations_grouped();
CREATE TRIGGER meters_grouped_delete AFTER DELETE ON meters_installation
    REFERENCING OLD TABLE AS before_it FOR EACH STATEMENT EXECUTE FUNCTION meters_installations_grouped();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('meters', '0020_laboratory'),
    ]

    operations = [
        migrations.CreateModel(
            name='FleetGroup',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', ami_headend.core.names.NameField(help_text='a word such as district, feeder or route', max_length=40)),
                ('name', ami_headend.core.names.NameField(max_length=120)),
                ('note', ami_headend.core.names.NameField(blank=True, max_length=250)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'verbose_name': 'group',
                'constraints': [models.UniqueConstraint(ami_headend.core.names.Alike('kind'), ami_headend.core.names.Alike('name'), name='fleet_group_alike', violation_error_message='There is a group of this kind and name, or one that looks like it, already.'), models.CheckConstraint(condition=models.Q(('kind__regex', '^[^:|]+$'), ('name__regex', '^[^|]+$'), models.Q(models.Q(('kind', 'tag'), _negated=True), ('name__regex', '^[^:|]+$'), _connector='OR')), name='fleet_group_written', violation_error_message='Kind and name hold no |, and a kind or a tag no colon.')],
            },
        ),
        migrations.CreateModel(
            name='MeterInGroup',
            fields=[
                ('pk', models.CompositePrimaryKey('group_id', 'meter_id', 'via', blank=True, editable=False, primary_key=True, serialize=False)),
                ('via', models.SmallIntegerField(choices=[(0, 'itself'), (1, 'its place'), (2, 'its concentrator')])),
                ('group', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.fleetgroup')),
                ('meter', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='meters.meter')),
            ],
        ),
        migrations.CreateModel(
            name='PlaceInGroup',
            fields=[
                ('pk', models.CompositePrimaryKey('group_id', 'place_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('group', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.fleetgroup')),
                ('place', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.place')),
            ],
        ),
        migrations.RunSQL(TRIGGERS),
    ]
