"""The audit chain is not emptied either: where one role owns everything, no right stands in the way of TRUNCATE."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0010_backup")]
    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER keyvault_audit_not_emptied BEFORE TRUNCATE ON keyvault_auditrecord"
            " FOR EACH STATEMENT EXECUTE FUNCTION keyvault_audit_refuse_change()",
            "DROP TRIGGER keyvault_audit_not_emptied ON keyvault_auditrecord",
        )
    ]
