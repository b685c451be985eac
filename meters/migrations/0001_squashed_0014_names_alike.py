"""Meters, places, registers and readings, as the fourteen migrations before left them."""

import ami_headend.core.names
import django.contrib.postgres.constraints
import django.db.models.deletion
import meters.models
from django.db import migrations, models

from meters.readings.obis import STANDARD_REGISTERS

# Partitioned by month: Django makes no such table.
READINGS = """
CREATE TABLE meters_reading (
    captured_at timestamptz NOT NULL,
    value bigint NOT NULL,
    uplink_id bigint NOT NULL,
    meter_id integer NOT NULL,
    register_id smallint NOT NULL,
    interval_minutes smallint NOT NULL,
    PRIMARY KEY (captured_at, meter_id, register_id)
) PARTITION BY RANGE (captured_at)
"""
# Partitions of the readings are made and dropped by functions of their owner: who writes readings owns no table. Others
# than the owner may drop only what is past the retention, as the owner last set it (``meters_retention_days``;
# ``manage.py migrate`` and ``grant_rights`` set it to RETENTION_DAYS).
PARTITIONS = """
CREATE FUNCTION meters_retention_days() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 36525';

CREATE FUNCTION meters_create_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    partition text := 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF (start = date_trunc('month', start, 'UTC')
        AND start BETWEEN now() - interval '100 years' AND now() + interval '100 years') IS NOT TRUE THEN
        RAISE EXCEPTION '% does not begin a month that readings may fall in', start;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF meters_reading FOR VALUES FROM (%L) TO (%L)', partition, start, following);
    EXECUTE format('COMMENT ON TABLE %I IS %L', partition, 'psqlextra_auto_partitioned');
END $$;

CREATE FUNCTION meters_drop_month(start timestamptz) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    following timestamptz := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF NOT pg_has_role(session_user, current_user, 'MEMBER')
       AND (following > now() - make_interval(days => meters_retention_days())) IS NOT FALSE THEN
        RAISE EXCEPTION 'readings of % are kept for % days', to_char(start AT TIME ZONE 'UTC', 'YYYY-MM'), meters_retention_days()
        USING ERRCODE = 'insufficient_privilege', HINT = 'Where RETENTION_DAYS was lowered, run manage.py grant_rights.';
    END IF;
    EXECUTE format('DROP TABLE %I', 'meters_reading_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM'));
END $$;
"""

# The record of who looked at households is written and cleared by functions of its owner: others may add and read. Within
# an hour looks are counted in one row, which takes an update; others than the owner remove only what is past the days
# that the owner last set (``manage.py migrate`` and ``grant_rights`` set them to ACCESS_KEEP_DAYS).
ACCESSES = """
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
"""

CLOSED = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'meters_create_month(timestamptz)', 'meters_drop_month(timestamptz)', 'meters_purge_accesses(timestamptz)',
        'meters_note_accesses(timestamptz, text, text, integer[], bigint[], timestamptz)'
    ] LOOP
        -- Nothing that a caller has in its own search path may take the place of what the functions name.
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
"""

# Indexes that serve the search for meters and places (meters/registry/search.py).
WORDS = "to_tsvector('simple', regexp_replace(lower({text}), '[^[:alnum:]]+', ' ', 'g'))"
# A serial number of one word is found by its beginning and its end.
METER = "name || ' ' || CASE WHEN serial_number ~ '[^[:alnum:]]' THEN serial_number ELSE '' END"
INDEXES = {
    "meter_serial_begins": "meters_meter (lower(serial_number) text_pattern_ops)",
    "meter_serial_ends": "meters_meter (reverse(lower(serial_number)) text_pattern_ops)",
    "meter_status": "meters_meter (status, serial_number) WHERE status <> 'commissioned'",
    "meter_words": "meters_meter USING gin (" + WORDS.format(text=METER) + ")",
    "place_words": "meters_place USING gin (" + WORDS.format(text="name || ' ' || address") + ")",
}

# The plausible values of the catalogue's registers, in their steps.
_CUMULATIVE, _INTERVAL, _POWER = (0, 999_999_999_999), (0, 999_999_999), (0, 999_999_999)  # Wh or varh; W
_CURRENT, _VOLTAGE, _EVENT = (-10_000_000, 10_000_000), (0, 10_000_000), (0, None)  # steps of 0.01 A and 0.1 V
BOUNDS = {
    **dict.fromkeys(("1-0:1.8.0", "1-0:1.8.1", "1-0:1.8.2", "1-0:2.8.0", "1-0:2.8.1", "1-0:2.8.2"), _CUMULATIVE),
    **dict.fromkeys(("1-0:3.8.0", "1-0:4.8.0"), _CUMULATIVE),
    **dict.fromkeys(("1-0:1.29.0", "1-0:2.29.0", "1-0:3.29.0", "1-0:4.29.0"), _INTERVAL),
    **dict.fromkeys(("1-0:1.7.0", "1-0:2.7.0"), _POWER),
    "1-0:13.7.0": (-1_000, 1_000),
    "1-0:14.7.0": (0, 10_000),
    **dict.fromkeys(("1-0:31.7.0", "1-0:51.7.0", "1-0:71.7.0"), _CURRENT),
    **dict.fromkeys(("1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0"), _VOLTAGE),
    **dict.fromkeys(("0-0:96.11.0", "0-0:96.11.1", "0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2"), _EVENT),
}


def add_standard_registers(apps, schema_editor):
    """Those of the catalogue in meters/readings/obis.py, as it stands when the database is made."""
    register = apps.get_model("meters", "Register")
    rows = []
    for row in STANDARD_REGISTERS:
        minimum, maximum = BOUNDS.get(row.obis_code, (None, None))
        rows.append(register(**row._asdict(), minimum=minimum, maximum=maximum))
    register.objects.bulk_create(rows)


class Migration(migrations.Migration):

    replaces = [
        ('meters', '0001_initial'),
        ('meters', '0002_standard_registers'),
        ('meters', '0003_command_registers'),
        ('meters', '0004_interval_lengths'),
        ('meters', '0005_partition_functions'),
        ('meters', '0006_names'),
        ('meters', '0007_late_commands'),
        ('meters', '0008_search'),
        ('meters', '0009_bounds'),
        ('meters', '0010_names_and_places'),
        ('meters', '0011_household_access'),
        ('meters', '0012_accesses_by_function'),
        ('meters', '0013_place_by_reference'),
        ('meters', '0014_names_alike'),
    ]

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Place',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', ami_headend.core.names.NameField(max_length=120, unique=True)),
                ('address', ami_headend.core.names.NameField(blank=True, max_length=250)),
                ('customer_reference', ami_headend.core.names.NameField(blank=True, help_text='of the customer or contract, elsewhere', max_length=64)),
                ('latitude', models.DecimalField(blank=True, decimal_places=6, help_text='degrees north, WGS 84', max_digits=8, null=True)),
                ('longitude', models.DecimalField(blank=True, decimal_places=6, help_text='degrees east, WGS 84', max_digits=9, null=True)),
            ],
            options={
                'indexes': [models.Index(fields=['customer_reference', 'id'], name='place_by_reference')],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('latitude', None), ('longitude', None)), models.Q(('latitude__isnull', False), ('longitude__isnull', False), ('latitude__gte', -90), ('latitude__lte', 90), ('longitude__gte', -180), ('longitude__lte', 180)), _connector='OR'), name='place_coordinates', violation_error_message='Latitude (-90 to 90) and longitude (-180 to 180) go together.'), models.UniqueConstraint(ami_headend.core.names.Alike('name'), name='place_name_alike', violation_error_message='There is a place with this name, or one that looks like it, already.')],
            },
        ),
        migrations.CreateModel(
            name='Register',
            fields=[
                ('id', models.SmallAutoField(primary_key=True, serialize=False)),
                ('obis_code', models.CharField(max_length=24, unique=True)),
                ('kind', models.CharField(choices=[('cumulative', 'cumulative'), ('interval', 'interval'), ('instantaneous', 'instantaneous'), ('event', 'event')], max_length=13)),
                ('unit', models.CharField(help_text='SenML unit (RFC 8428, RFC 8798)', max_length=8)),
                ('scaler', models.SmallIntegerField(default=0, help_text='one step is 10^scaler units')),
                ('name', models.CharField(max_length=120)),
                ('minimum', models.BigIntegerField(blank=True, help_text='lowest plausible value, in steps; a frame that says less waits', null=True)),
                ('maximum', models.BigIntegerField(blank=True, help_text='highest plausible value, in steps; a frame that says more waits', null=True)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('minimum', None), ('maximum', None), ('minimum__lte', models.F('maximum')), _connector='OR'), name='register_bounds', violation_error_message='The lowest plausible value is above the highest.')],
            },
        ),
        migrations.CreateModel(
            name='Meter',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('system_title', models.BinaryField(help_text='EUI-64, 8 octets', max_length=8, unique=True)),
                ('serial_number', ami_headend.core.names.NameField(max_length=64, unique=True)),
                ('name', ami_headend.core.names.NameField(blank=True, max_length=120)),
                ('status', models.CharField(choices=[('commissioned', 'Commissioned'), ('suspended', 'Suspended'), ('retired', 'Retired')], default='commissioned', max_length=12)),
                ('interval_minutes', models.PositiveSmallIntegerField(default=30, help_text='length of one load-profile interval')),
                ('commissioned_at', models.DateTimeField(help_text='intervals are expected from here on')),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('interval_minutes__gte', 1), ('interval_minutes__lte', 1440)), name='meter_interval_minutes'), models.UniqueConstraint(ami_headend.core.names.Alike('serial_number'), name='meter_serial_number_alike', violation_error_message='There is a meter with this serial number, or one that looks like it, already.')],
            },
        ),
        migrations.SeparateDatabaseAndState(
            [migrations.RunSQL(READINGS)],
            [
                migrations.CreateModel(
                    name='Reading',
                    fields=[
                        ('pk', models.CompositePrimaryKey('captured_at', 'meter_id', 'register_id', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('captured_at', models.DateTimeField()),
                        ('value', models.BigIntegerField()),
                        ('uplink_id', models.BigIntegerField()),
                        ('meter', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='meters.meter')),
                        ('register', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='meters.register')),
                        ('interval_minutes', models.SmallIntegerField(default=0)),
                    ],
                ),
            ],
        ),
        migrations.CreateModel(
            name='Installation',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('installed_at', models.DateTimeField()),
                ('removed_at', models.DateTimeField(blank=True, null=True)),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='installations', to='meters.meter')),
                ('place', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='installations', to='meters.place')),
            ],
            options={
                'constraints': [django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(meters.models.SameInteger('meter_id'), '&&'), (meters.models.Period('installed_at', 'removed_at'), '&&')], name='installation_one_meter', violation_error_message='This meter already has an installation in that period.'), django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(meters.models.SameInteger('place_id'), '&&'), (meters.models.Period('installed_at', 'removed_at'), '&&')], name='installation_one_place', violation_error_message='This place already has an installation in that period.')],
            },
        ),
        migrations.CreateModel(
            name='MeterEvent',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('captured_at', models.DateTimeField()),
                ('value', models.BigIntegerField()),
                ('uplink_id', models.BigIntegerField()),
                ('received_at', models.DateTimeField()),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='events', to='meters.meter')),
                ('register', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.register')),
            ],
            options={
                'indexes': [models.Index(fields=['-captured_at', '-id'], name='meter_event_by_time')],
                'constraints': [models.UniqueConstraint(fields=('meter', 'register', 'captured_at', 'value'), name='meter_event_once_each')],
            },
        ),
        migrations.CreateModel(
            name='EarlierLength',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('interval_minutes', models.PositiveSmallIntegerField()),
                ('valid_from', models.DateTimeField(blank=True, null=True)),
                ('valid_to', models.DateTimeField()),
                ('meter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='earlier_lengths', to='meters.meter')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('interval_minutes__gte', 1), ('interval_minutes__lte', 1440)), name='earlier_length_minutes'), models.UniqueConstraint(fields=('meter', 'valid_to'), name='earlier_length_end'), django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(meters.models.SameInteger('meter_id'), '&&'), (meters.models.Period('valid_from', 'valid_to'), '&&')], name='earlier_length_one_at_a_time', violation_error_message='The meter has another interval length in that period.')],
                'verbose_name': 'previous interval length',
            },
        ),
        migrations.CreateModel(
            name='HouseholdAccess',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('hour', models.DateTimeField()),
                ('account', models.CharField(max_length=150)),
                ('door', models.CharField(max_length=60)),
                ('requests', models.PositiveIntegerField(default=1)),
                ('first_at', models.DateTimeField()),
                ('last_at', models.DateTimeField(db_index=True)),
                ('meter', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.meter')),
                ('place', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='meters.place')),
            ],
            options={
                'verbose_name': 'access to household data',
                'verbose_name_plural': 'accesses to household data',
            },
        ),
        migrations.AddConstraint(  # not with its table: a function names it, and stands before what Django puts off
            'HouseholdAccess',
            models.UniqueConstraint(fields=('hour', 'account', 'door', 'meter', 'place'), name='household_access_once_an_hour', nulls_distinct=False),
        ),
        migrations.RunSQL([PARTITIONS, ACCESSES, CLOSED]),
        migrations.RunSQL([f"CREATE INDEX {name} ON {where}" for name, where in INDEXES.items()]),
        migrations.RunPython(add_standard_registers),
    ]
