"""The key journal's numbers, and the mark of a database into which the journal was replayed.

The mark is one row of a table without a model: no dump of ``manage.py backup`` holds it.
"""

from django.db import migrations

MAKE = """
    CREATE SEQUENCE keyvault_journal_number AS bigint;
    CREATE TABLE keyvault_journal_replayed (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        at timestamptz NOT NULL DEFAULT now()
    );
    INSERT INTO keyvault_journal_replayed DEFAULT VALUES;
"""
DROP = """
    DROP TABLE keyvault_journal_replayed;
    DROP SEQUENCE keyvault_journal_number;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0007_approvals'),
    ]

    operations = [
        migrations.RunSQL(MAKE, DROP),
    ]
