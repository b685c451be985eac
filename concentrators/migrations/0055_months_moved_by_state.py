"""Workers read again from when on readings are stored where a month's state changes, not while its files are read."""

from django.db import migrations

NARROW = """
DROP TRIGGER concentrators_generation ON meters_archivedmonth;
CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OF state OR DELETE OR TRUNCATE ON meters_archivedmonth
    FOR EACH STATEMENT EXECUTE FUNCTION concentrators_months_moved();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0054_feed_owner"), ("meters", "0026_archive_rounds")]
    operations = [migrations.RunSQL(NARROW, migrations.RunSQL.noop)]
