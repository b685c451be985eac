"""Why a second person refused."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0029_journal_timeline'),
    ]

    operations = [
        migrations.AddField(
            model_name='approval',
            name='refusal',
            field=models.CharField(blank=True, db_default='', help_text='why it was refused', max_length=250),
        ),
    ]
