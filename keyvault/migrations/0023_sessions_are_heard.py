"""A session has what its frames write in its own row: the key's version, and when it was heard."""

from django.db import migrations, models

# Frames of a session touch no other row than its own. Whoever moves a key, to cut it off or to retire it, moves its
# sessions as well: a trigger, so that nobody can forget it.
VERSION = """
    UPDATE keyvault_session s SET key_version = k.version FROM keyvault_devicekey k
    WHERE k.id = s.key_id AND s.key_version <> k.version;
    CREATE FUNCTION keyvault_move_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE keyvault_session SET key_version = NEW.version WHERE key_id = NEW.id;
        RETURN NULL;
    END $$;
    CREATE TRIGGER keyvault_sessions_moved AFTER UPDATE OF version ON keyvault_devicekey
        FOR EACH ROW WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION keyvault_move_sessions();
"""
NO_VERSION = """
    DROP TRIGGER keyvault_sessions_moved ON keyvault_devicekey;
    DROP FUNCTION keyvault_move_sessions();
"""
# As that of keys' own counters: room on the page keeps updates HOT.
STORAGE = "ALTER TABLE keyvault_session SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)"
NO_STORAGE = "ALTER TABLE keyvault_session RESET (fillfactor, autovacuum_vacuum_scale_factor)"


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0022_unpinned_authorities'),
    ]

    operations = [
        migrations.AddField(
            model_name='session',
            name='key_version',
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.AddField(
            model_name='session',
            name='heard_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='session',
            name='heard_via',
            field=models.IntegerField(null=True),
        ),
        migrations.AddIndex(
            model_name='session',
            index=models.Index(condition=models.Q(('heard_via__isnull', False)), fields=['heard_via'], name='session_heard_via'),
        ),
        migrations.RunSQL(VERSION, NO_VERSION),
        migrations.RunSQL(STORAGE, NO_STORAGE),
    ]
