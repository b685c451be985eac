"""The generation of the registry, and the triggers that move it."""

from django.db import migrations, models

MOVE = "UPDATE concentrators_registrygeneration SET number = floor(random() * 9e15)::bigint"
TRIGGERS = f"""
    INSERT INTO concentrators_registrygeneration (number) VALUES (floor(random() * 9e15)::bigint);
    CREATE FUNCTION concentrators_move_generation() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {MOVE};
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_generation AFTER UPDATE OR DELETE OR TRUNCATE ON meters_meter
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
    CREATE TRIGGER concentrators_generation AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON concentrators_assignment
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_move_generation();
"""
NO_TRIGGERS = """
    DROP TRIGGER concentrators_generation ON meters_meter;
    DROP TRIGGER concentrators_generation ON concentrators_assignment;
    DROP FUNCTION concentrators_move_generation();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0005_uplink_in_turn"), ("meters", "0001_initial")]
    operations = [
        migrations.CreateModel(
            name="RegistryGeneration",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.BigIntegerField()),
            ],
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
