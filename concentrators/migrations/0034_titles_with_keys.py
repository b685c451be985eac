"""A title with keys of a concentrator is no meter's, though its concentrator has not been given it yet."""

from django.db import migrations

from ami_headend.core.locks import SYSTEM_TITLES

# As with titles of concentrators (0026): new meters hold the lock shared, a concentrator's new key alone.
TRIGGERS = f"""
    CREATE FUNCTION concentrators_refuse_keys(title bytea) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the system title % is that of a meter, and has keys of a concentrator', encode(title, 'hex')
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'system_title_of_one';
    END $$;
    CREATE FUNCTION concentrators_keys_of_no_meter() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock({SYSTEM_TITLES});
        PERFORM concentrators_refuse_keys(system_title) FROM meters_meter WHERE system_title = NEW.system_title;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_title AFTER INSERT OR UPDATE OF scheme, system_title ON keyvault_devicekey
        FOR EACH ROW WHEN (NEW.scheme = 'concentrator') EXECUTE FUNCTION concentrators_keys_of_no_meter();
    CREATE OR REPLACE FUNCTION concentrators_titles_of_meters_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(c.system_title)
            FROM concentrators_concentrator c JOIN added USING (system_title);
        PERFORM concentrators_refuse_keys(k.system_title)
            FROM added JOIN keyvault_devicekey k USING (system_title) WHERE k.scheme = 'concentrator';
        RETURN NULL;
    END $$;
    CREATE OR REPLACE FUNCTION concentrators_title_of_meter_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(system_title)
            FROM concentrators_concentrator WHERE system_title = NEW.system_title;
        PERFORM concentrators_refuse_keys(system_title)
            FROM keyvault_devicekey WHERE system_title = NEW.system_title AND scheme = 'concentrator';
        RETURN NULL;
    END $$;
"""
NO_TRIGGERS = f"""
    DROP TRIGGER concentrators_title ON keyvault_devicekey;
    DROP FUNCTION concentrators_keys_of_no_meter();
    CREATE OR REPLACE FUNCTION concentrators_titles_of_meters_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(c.system_title)
            FROM concentrators_concentrator c JOIN added USING (system_title);
        RETURN NULL;
    END $$;
    CREATE OR REPLACE FUNCTION concentrators_title_of_meter_alone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SYSTEM_TITLES});
        PERFORM concentrators_refuse_title(system_title)
            FROM concentrators_concentrator WHERE system_title = NEW.system_title;
        RETURN NULL;
    END $$;
    DROP FUNCTION concentrators_refuse_keys(bytea);
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0033_masked_totals"), ("keyvault", "0025_cti_of_authority")]
    operations = [migrations.RunSQL(TRIGGERS, NO_TRIGGERS)]
