"""Bodies that come again while a laboratory meter is given octets are noted."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0039_conformance'),
    ]

    operations = [
        migrations.CreateModel(
            name='RepeatedUplink',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('posted_at', models.DateTimeField()),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
                ('uplink', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.uplink')),
            ],
        ),
    ]
