"""Indexes that serve the search for meters and places (meters/registry/search.py); made while readings keep coming."""

from django.db import migrations

WORDS = "to_tsvector('simple', regexp_replace(lower({text}), '[^[:alnum:]]+', ' ', 'g'))"
# A serial number of one word is found by its beginning and its end.
METER = "name || ' ' || CASE WHEN serial_number ~ '[^[:alnum:]]' THEN serial_number ELSE '' END"
INDEXES = {
    "meter_serial_begins": "meters_meter (lower(serial_number) text_pattern_ops)",
    "meter_serial_ends": "meters_meter (reverse(lower(serial_number)) text_pattern_ops)",
    "meter_status": "meters_meter (status, serial_number) WHERE status <> 'commissioned'",
    "meter_words": "meters_meter USING gin (" + WORDS.format(text=METER) + ")",
    "place_words": "meters_place USING gin (" + WORDS.format(text="name || ' ' || address") + ")",
}


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("meters", "0007_late_commands")]
    operations = [
        migrations.RunSQL(
            [
                statement
                for name, where in INDEXES.items()
                for statement in (
                    f"DROP INDEX CONCURRENTLY IF EXISTS {name}",  # what a run left that was stopped
                    f"CREATE INDEX CONCURRENTLY {name} ON {where}",
                )
            ]
            + ["ANALYZE meters_meter", "ANALYZE meters_place"],  # what stands in an expression it knows from here on
            [f"DROP INDEX CONCURRENTLY IF EXISTS {name}" for name in INDEXES],
        )
    ]
