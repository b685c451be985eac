"""Places in the order of their references, with the id: most may have none. Made while readings keep coming."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("meters", "0012_accesses_by_function")]
    operations = [
        AddIndexConcurrently(
            "place", models.Index(fields=["customer_reference", "id"], name="place_by_reference")
        ),
        RemoveIndexConcurrently("place", "place_by_customer"),
    ]
