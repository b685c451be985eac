from django.db import migrations, models
from django.db.models.fields.json import KeyTextTransform


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0021_authority_mac")]

    operations = [
        migrations.AddField(
            model_name="authority", name="unpinned_at", field=models.DateTimeField(null=True)
        ),
        migrations.AddIndex(
            model_name="auditrecord",
            index=models.Index(
                KeyTextTransform("kid", "subject"),
                models.F("number").desc(),
                name="audit_of_authority",
                condition=models.Q(act__in=["authority.pin", "authority.unpin"]),
            ),
        ),
    ]
