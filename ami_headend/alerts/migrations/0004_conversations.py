"""What each receiver knows of an alert; messages outlive their channel."""

import ami_headend.core.text
import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0003_backup_overdue'),
    ]

    operations = [
        migrations.CreateModel(
            name='GatheredSubjects',
            fields=[
                ('alert', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='gathered', serialize=False, to='alerts.alert')),
                ('kind', models.CharField(choices=[('meter', 'meter'), ('concentrator', 'concentrator'), ('wave', 'rotation wave'), ('master_key', 'master key'), ('fleet', 'the whole head-end')], max_length=12)),
                ('ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None)),
            ],
        ),
        migrations.AddField(
            model_name='alert',
            name='subjects',
            field=models.PositiveIntegerField(default=1, help_text='of how many it was found last'),
        ),
        migrations.AddField(
            model_name='delivery',
            name='channel_name',
            field=models.CharField(default='', max_length=120, verbose_name='name of the channel'),
        ),
        migrations.AddField(
            model_name='delivery',
            name='leased_at',
            field=models.DateTimeField(help_text='when a worker began to send it', null=True),
        ),
        migrations.AddField(
            model_name='delivery',
            name='recipient',
            field=models.CharField(blank=True, max_length=254),
        ),
        migrations.AlterField(
            model_name='alert',
            name='subject',
            field=models.CharField(help_text='its name, as found last', max_length=120),
        ),
        migrations.AlterField(
            model_name='channel',
            name='name',
            field=models.CharField(max_length=120, unique=True, validators=[ami_headend.core.text.check_one_line]),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='channel',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deliveries', to='alerts.channel'),
        ),
        migrations.AlterField(
            model_name='rule',
            name='name',
            field=models.CharField(max_length=120, unique=True, validators=[ami_headend.core.text.check_one_line]),
        ),
        migrations.CreateModel(
            name='Conversation',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('recipient', models.CharField(blank=True, max_length=254)),
                ('word', models.CharField(choices=[('nothing', 'nothing'), ('open', 'open'), ('over', 'over'), ('unsure', 'unsure')], default='nothing', max_length=7)),
                ('subjects', models.PositiveIntegerField(default=0, help_text='of how many it was told last')),
                ('disturbed_at', models.DateTimeField(help_text='when it was told last that something is wrong', null=True)),
                ('flaps', models.PositiveSmallIntegerField(default=0)),
                ('look_at', models.DateTimeField(help_text='when it is to be told, if nothing changes until then', null=True)),
                ('alert', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='conversations', to='alerts.alert')),
                ('channel', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='conversations', to='alerts.channel')),
            ],
        ),
        migrations.AddField(
            model_name='delivery',
            name='conversation',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deliveries', to='alerts.conversation'),
        ),
        migrations.AddConstraint(
            model_name='delivery',
            constraint=models.UniqueConstraint(condition=models.Q(('conversation__isnull', False), ('delivered_at', None), ('given_up_at', None)), fields=('conversation',), name='delivery_one_under_way'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('leased_at__isnull', False)), fields=['channel'], name='delivery_leased'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(condition=models.Q(('look_at__isnull', False)), fields=['look_at'], name='conversation_due'),
        ),
        migrations.AddConstraint(
            model_name='conversation',
            constraint=models.UniqueConstraint(fields=('alert', 'channel', 'recipient'), name='conversation_once'),
        ),
    ]
