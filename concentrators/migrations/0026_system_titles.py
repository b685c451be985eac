"""System titles of concentrators that hold keys; triggers keep a title from being a meter's and a concentrator's."""

from django.db import migrations, models

from ami_headend.core.locks import SYSTEM_TITLES

# New meters hold the lock shared, a concentrator that is given a title alone: the later of two looks once the other
# has committed, and its statement sees what that did.
TRIGGERS = f"""
    CREATE FUNCTION concentrators_refuse_title(title bytea) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the system title % is that of a meter and of a concentrator', encode(title, 'hex')
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'system_title_of_one';
    END $$;
    CREATE FUNCTION concentrators_title_of_no_meter() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(system_title) FROM meters_meter WHERE system_title = NEW.system_title;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_title AFTER INSERT OR UPDATE OF system_title ON concentrators_concentrator
        FOR EACH ROW WHEN (NEW.system_title IS NOT NULL) EXECUTE FUNCTION concentrators_title_of_no_meter();
    CREATE FUNCTION concentrators_titles_of_meters_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(c.system_title)
            FROM concentrators_concentrator c JOIN added USING (system_title);
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_titles AFTER INSERT ON meters_meter REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_titles_of_meters_alone();
    CREATE FUNCTION concentrators_title_of_meter_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(system_title)
            FROM concentrators_concentrator WHERE system_title = NEW.system_title;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_title AFTER UPDATE OF system_title ON meters_meter
        FOR EACH ROW WHEN (OLD.system_title IS DISTINCT FROM NEW.system_title)
        EXECUTE FUNCTION concentrators_title_of_meter_alone();
"""
NO_TRIGGERS = """
    DROP TRIGGER concentrators_title ON concentrators_concentrator;
    DROP TRIGGER concentrators_titles ON meters_meter;
    DROP TRIGGER concentrators_title ON meters_meter;
    DROP FUNCTION concentrators_title_of_no_meter();
    DROP FUNCTION concentrators_titles_of_meters_alone();
    DROP FUNCTION concentrators_title_of_meter_alone();
    DROP FUNCTION concentrators_refuse_title(bytea);
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0025_wave_scheme"), ("meters", "0001_squashed_0014_names_alike")]
    operations = [
        migrations.AddField(
            model_name="concentrator",
            name="system_title",
            field=models.BinaryField(
                max_length=8,
                null=True,
                blank=True,
                unique=True,
                help_text="EUI-64, 8 octets; of a concentrator that has keys",
            ),
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
