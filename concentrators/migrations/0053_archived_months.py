"""Workers read again from when on readings are stored, once a month is closed for the archive or comes back."""

from django.db import migrations

TRIGGER = """
CREATE FUNCTION concentrators_months_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE concentrators_registrygeneration SET registers = floor(random() * 9e15)::bigint;
    RETURN NULL;
END $$;
CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meters_archivedmonth
    FOR EACH STATEMENT EXECUTE FUNCTION concentrators_months_moved();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0052_read_day_basis"), ("meters", "0024_archive")]
    operations = [
        migrations.RunSQL(
            TRIGGER,
            "DROP TRIGGER concentrators_generation ON meters_archivedmonth; DROP FUNCTION concentrators_months_moved();",
        )
    ]
