"""The timeline into which the key journal was replayed, for databases that may fail over to a standby that lags."""

from django.db import migrations

# NULL: every standby that may be promoted has every commit, so that any timeline will do. A timeline of PostgreSQL
# begins with each promotion. Its number is the first 8 hexadecimal digits of the name of a file of its log.
TIMELINE = """
    ALTER TABLE keyvault_journal_replayed ADD COLUMN timeline integer;
    CREATE FUNCTION keyvault_timeline() RETURNS integer LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN pg_is_in_recovery() THEN 0
                    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer END
    $$;
"""
BACK = """
    DROP FUNCTION keyvault_timeline();
    ALTER TABLE keyvault_journal_replayed DROP COLUMN timeline;
"""


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0028_identity_mac")]

    operations = [migrations.RunSQL(TIMELINE, BACK)]
