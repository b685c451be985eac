"""Indexes for what was read whole; made while readings keep coming."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models

ALONE, AMONG = "failure_group_concentrator", "failure_group_concentrators"
DROP = [f"DROP INDEX CONCURRENTLY IF EXISTS {ALONE}", f"DROP INDEX CONCURRENTLY IF EXISTS {AMONG}"]


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("concentrators", "0017_expected_steps")]
    operations = [
        AddIndexConcurrently(
            "failuregroup",
            models.Index(condition=models.Q(("open__gt", 0)), fields=["kind", "-last_at", "-id"], name="failure_group_open"),
        ),
        AddIndexConcurrently(
            "failuregroup",
            models.Index(condition=models.Q(("open__lte", 0)), fields=["kind", "-last_at", "-id"], name="failure_group_seen"),
        ),
        RemoveIndexConcurrently("failuregroup", "failure_group_by_time"),
        AddIndexConcurrently(
            "failuretally", models.Index(fields=["-hour", "concentrator", "kind"], name="failure_tally_by_hour")
        ),
        AddIndexConcurrently(
            "assignment",
            models.Index(condition=models.Q(("valid_to__isnull", False)), fields=["meter", "valid_to"], name="assignment_ended"),
        ),
        migrations.RunSQL(
            [
                *DROP,  # what a run left that was stopped
                f"""CREATE INDEX CONCURRENTLY {ALONE}
                    ON concentrators_failuregroup ((concentrators[1]), last_at DESC, id DESC)
                    WHERE cardinality(concentrators) = 1""",
                f"""CREATE INDEX CONCURRENTLY {AMONG} ON concentrators_failuregroup USING gin (concentrators)
                    WHERE cardinality(concentrators) > 1""",
                "ANALYZE concentrators_failuregroup",
            ],
            DROP,
        ),
    ]
