from django.db import migrations


class Migration(migrations.Migration):
    """Which records name a meter or key: the page of the audit chain asks by the texts in their subjects."""

    dependencies = [("keyvault", "0012_names")]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX audit_by_subject ON keyvault_auditrecord USING gin (to_tsvector('simple', subject))",
            "DROP INDEX audit_by_subject",
        ),
    ]
