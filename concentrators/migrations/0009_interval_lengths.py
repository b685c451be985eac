"""Lengths that meters were told: which commands wait to be entered, and that the registry moves with them."""

from django.db import migrations, models

TRIGGERS = """
    CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meters_earlierlength
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
    CREATE FUNCTION concentrators_length_told() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM told WHERE kind = 5) THEN
            UPDATE concentrators_registrygeneration SET number = floor(random() * 9e15)::bigint;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_generation AFTER INSERT ON concentrators_command
        REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION concentrators_length_told();
"""
NO_TRIGGERS = """
    DROP TRIGGER concentrators_generation ON concentrators_command;
    DROP FUNCTION concentrators_length_told();
    DROP TRIGGER concentrators_generation ON meters_earlierlength;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0008_failure_group_triggers'),
        ('meters', '0004_interval_lengths'),
    ]

    operations = [
        migrations.AddField(
            model_name='command',
            name='entered_at',
            field=models.DateTimeField(help_text='set interval: when the registry took the length over', null=True),
        ),
        migrations.AddIndex(
            model_name='command',
            index=models.Index(condition=models.Q(('entered_at', None), ('kind', 5), models.Q(('state__in', ['refused', 'cancelled']), _negated=True)), fields=['meter'], name='command_announced_length'),
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
