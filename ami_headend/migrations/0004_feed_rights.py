"""Who may see and move subscriptions of the feed."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [("ami_headend", "0003_api_token_rights"), ("concentrators", "0043_feed")]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
