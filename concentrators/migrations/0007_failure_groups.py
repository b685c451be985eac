"""Acknowledgements of failures, indexes by kind and state, and their counts by meter and kind."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("concentrators", "0006_registry_generation"),
        ("meters", "0003_command_registers"),
    ]
    operations = [
        migrations.CreateModel(
            name="Acknowledgement",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("by", models.CharField(max_length=150)),
                ("at", models.DateTimeField()),
                ("note", models.CharField(max_length=1000)),
                ("selection", models.JSONField(default=dict, help_text="which failures were meant")),
            ],
        ),
        migrations.CreateModel(
            name="FailureGroup",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=18)),
                ("severity", models.SmallIntegerField()),
                (
                    "meter",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="meters.meter"
                    ),
                ),
                (
                    "concentrator",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="concentrators.concentrator",
                    ),
                ),
                (
                    "concentrators",
                    django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), size=None),
                ),
                ("failures", models.BigIntegerField()),
                ("open", models.BigIntegerField()),
                ("first_at", models.DateTimeField()),
                ("last_at", models.DateTimeField()),
            ],
            options={
                "indexes": [models.Index(fields=["-last_at", "-id"], name="failure_group_by_time")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=["meter", "kind", "concentrator"], nulls_distinct=False, name="failure_group_once"
                    )
                ],
            },
        ),
        migrations.RemoveIndex(model_name="integrityfailure", name="failure_by_kind"),
        migrations.RemoveIndex(model_name="integrityfailure", name="failure_by_meter"),
        migrations.RemoveIndex(model_name="integrityfailure", name="failure_by_concentrator"),
        migrations.AddField(
            model_name="integrityfailure",
            name="acknowledgement",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="failures",
                to="concentrators.acknowledgement",
            ),
        ),
        migrations.AddField(
            model_name="integrityfailure",
            name="is_open",
            field=models.GeneratedField(
                db_persist=True,
                expression=models.Q(("acknowledgement__isnull", True)),
                output_field=models.BooleanField(),
            ),
        ),
        migrations.AddIndex(
            model_name="integrityfailure",
            index=models.Index(fields=["kind", "is_open", "-received_at", "-id"], name="failure_by_kind"),
        ),
        migrations.AddIndex(
            model_name="integrityfailure",
            index=models.Index(fields=["meter", "kind", "is_open", "-received_at", "-id"], name="failure_by_meter"),
        ),
        migrations.AddIndex(
            model_name="integrityfailure",
            index=models.Index(
                fields=["concentrator", "kind", "is_open", "-received_at", "-id"], name="failure_by_concentrator"
            ),
        ),
        migrations.AddIndex(
            model_name="integrityfailure",
            index=models.Index(
                condition=models.Q(("acknowledgement__isnull", False)),
                fields=["acknowledgement"],
                name="failure_acknowledged",
            ),
        ),
    ]
