"""Reports that waited for their concentrator's title are judged again once it has one."""

from django.db import migrations

TRIGGER = """
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE OF system_title ON concentrators_concentrator
        FOR EACH ROW WHEN (NEW.system_title IS NOT NULL) EXECUTE FUNCTION concentrators_meter_came();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0030_session_kids")]
    operations = [
        migrations.RunSQL(TRIGGER, "DROP TRIGGER concentrators_reverification ON concentrators_concentrator"),
    ]
