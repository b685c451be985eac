"""Bounds of plausible values for registers, and several events of one log in one second."""

from django.db import migrations, models

_CUMULATIVE, _INTERVAL, _POWER = (0, 999_999_999_999), (0, 999_999_999), (0, 999_999_999)  # Wh or varh; W
_CURRENT, _VOLTAGE, _EVENT = (-10_000_000, 10_000_000), (0, 10_000_000), (0, None)  # steps of 0.01 A and 0.1 V
BOUNDS = {
    **dict.fromkeys(("1-0:1.8.0", "1-0:1.8.1", "1-0:1.8.2", "1-0:2.8.0", "1-0:2.8.1", "1-0:2.8.2"), _CUMULATIVE),
    **dict.fromkeys(("1-0:3.8.0", "1-0:4.8.0"), _CUMULATIVE),
    **dict.fromkeys(("1-0:1.29.0", "1-0:2.29.0", "1-0:3.29.0", "1-0:4.29.0"), _INTERVAL),
    **dict.fromkeys(("1-0:1.7.0", "1-0:2.7.0"), _POWER),
    "1-0:13.7.0": (-1_000, 1_000),
    "1-0:14.7.0": (0, 10_000),
    **dict.fromkeys(("1-0:31.7.0", "1-0:51.7.0", "1-0:71.7.0"), _CURRENT),
    **dict.fromkeys(("1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0"), _VOLTAGE),
    **dict.fromkeys(("0-0:96.11.0", "0-0:96.11.1", "0-0:96.13.0", "0-0:96.13.1", "0-0:96.13.2"), _EVENT),
}


def bound(apps, schema_editor):
    register = apps.get_model("meters", "Register")
    rows = list(register.objects.filter(obis_code__in=BOUNDS))
    for row in rows:
        row.minimum, row.maximum = BOUNDS[row.obis_code]
    register.objects.bulk_update(rows, ["minimum", "maximum"])


class Migration(migrations.Migration):
    dependencies = [("meters", "0008_search")]
    operations = [
        migrations.AddField(
            "register",
            "minimum",
            models.BigIntegerField(
                blank=True, help_text="lowest plausible value, in steps; a frame that says less waits", null=True
            ),
        ),
        migrations.AddField(
            "register",
            "maximum",
            models.BigIntegerField(
                blank=True, help_text="highest plausible value, in steps; a frame that says more waits", null=True
            ),
        ),
        migrations.RunPython(bound, migrations.RunPython.noop),
        migrations.AddConstraint(
            "register",
            models.CheckConstraint(
                condition=models.Q(
                    ("minimum", None), ("maximum", None), ("minimum__lte", models.F("maximum")), _connector="OR"
                ),
                name="register_bounds",
                violation_error_message="The lowest plausible value is above the highest.",
            ),
        ),
        migrations.AddConstraint(
            "meterevent",
            models.UniqueConstraint(
                fields=("meter", "register", "captured_at", "value"), name="meter_event_once_each"
            ),
        ),
        migrations.RemoveConstraint("meterevent", "meter_event_once"),
    ]
