"""What the owner's function names is in the schema of the tables, whatever path its caller has set."""

from django.db import migrations

OWN_PATH = """
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION metrics_uplink_verified() SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION metrics_uplink_verified() FROM PUBLIC;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("metrics", "0002_uncounted")]
    operations = [migrations.RunSQL(OWN_PATH, migrations.RunSQL.noop)]
