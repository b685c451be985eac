"""Which cell a concentrator was moved to."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0055_months_moved_by_state")]
    operations = [
        migrations.AddField(
            model_name="concentrator",
            name="moved_to",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                help_text="the cell that has it now",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="concentrator",
            constraint=models.CheckConstraint(
                condition=models.Q(("moved_to", ""), ("is_active", False), _connector="OR"),
                name="concentrator_moved_is_not_active",
                violation_error_message="This concentrator was moved to another cell: only that one may let it in.",
            ),
        ),
    ]
