"""Tokens of programs."""


import ami_headend.core.names
import ami_headend.core.text
import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='ApiToken',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', ami_headend.core.names.NameField(help_text='the program, as records name it', max_length=100, validators=[ami_headend.core.text.check_one_line])),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=20), size=None)),
                ('digest', models.BinaryField(max_length=32, unique=True)),
                ('created_at', models.DateTimeField()),
                ('created_by', models.CharField(max_length=150)),
                ('issued_at', models.DateTimeField(help_text='of the present secret')),
                ('expires_at', models.DateTimeField()),
                ('previous_digest', models.BinaryField(blank=True, max_length=32, null=True, unique=True)),
                ('previous_until', models.DateTimeField(blank=True, null=True)),
                ('previous_used_at', models.DateTimeField(blank=True, help_text='when the previous secret was used last', null=True)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, help_text='to the minute', null=True)),
                ('last_used_from', models.CharField(blank=True, help_text='address', max_length=45)),
            ],
            options={
                'verbose_name': 'API token',
                'ordering': ['name', 'pk'],
                'constraints': [models.UniqueConstraint(condition=models.Q(('revoked_at', None)), fields=('name',), name='api_token_name_in_use', violation_error_message='another token has this name')],
            },
        ),
    ]
