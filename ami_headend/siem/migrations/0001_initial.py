"""Events that wait for the SIEM, and the triggers that note them in the transactions that they come from."""

import django.db.models.functions.datetime
from django.db import migrations, models

IS_ON = "EXISTS (SELECT 1 FROM siem_shipping WHERE is_on)"
# Tallies of rejected frames grow with every batch: they are due a minute after the first, and sent once for all of it.
TRIGGERS = f"""
CREATE FUNCTION siem_note_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {IS_ON} THEN
        INSERT INTO siem_pending AS p (source, key, version, noted_at, due_at)
        VALUES (TG_ARGV[0], to_jsonb(NEW) ->> TG_ARGV[1], 1, clock_timestamp(), clock_timestamp())
        ON CONFLICT (source, key) DO UPDATE SET version = p.version + 1;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION siem_note_tallies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {IS_ON} THEN
        INSERT INTO siem_pending AS p (source, key, version, noted_at, due_at)
        SELECT 'rejected', concentrator_id || ':' || kind || ':' || extract(epoch FROM hour)::bigint, 1,
               clock_timestamp(), clock_timestamp() + interval '1 minute'
        FROM fresh WHERE failures > 0 ORDER BY 2
        ON CONFLICT (source, key) DO UPDATE SET version = p.version + 1;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER siem_audited AFTER INSERT ON keyvault_auditrecord
    FOR EACH ROW EXECUTE FUNCTION siem_note_row('audit', 'number');
CREATE TRIGGER siem_alert_step AFTER INSERT ON alerts_alertstep
    FOR EACH ROW EXECUTE FUNCTION siem_note_row('alert', 'id');
CREATE TRIGGER siem_sign_in AFTER INSERT OR UPDATE ON signin_signin
    FOR EACH ROW EXECUTE FUNCTION siem_note_row('sign-in', 'id');
CREATE TRIGGER siem_tally_made AFTER INSERT ON concentrators_failuretally
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION siem_note_tallies();
CREATE TRIGGER siem_tally_grown AFTER UPDATE ON concentrators_failuretally
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION siem_note_tallies();

INSERT INTO siem_shipping (is_on, sent, attempts, last_error) VALUES (false, 0, 0, '');
"""
WITHOUT = """
DROP TRIGGER siem_tally_grown ON concentrators_failuretally;
DROP TRIGGER siem_tally_made ON concentrators_failuretally;
DROP TRIGGER siem_sign_in ON signin_signin;
DROP TRIGGER siem_alert_step ON alerts_alertstep;
DROP TRIGGER siem_audited ON keyvault_auditrecord;
DROP FUNCTION siem_note_tallies();
DROP FUNCTION siem_note_row();
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('alerts', '0001_squashed_0006_snooze_in_words'),
        ('concentrators', '0001_squashed_0024_names_alike'),
        ('keyvault', '0001_squashed_0014_scheme'),
        ('signin', '0001_squashed_0002_sessions'),
    ]

    operations = [
        migrations.CreateModel(
            name='Shipping',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('is_on', models.BooleanField(default=False)),
                ('sent', models.BigIntegerField(default=0, help_text='events that a receiver has read')),
                ('sent_at', models.DateTimeField(null=True)),
                ('attempts', models.PositiveIntegerField(default=0, help_text='failed ones since the last that did not')),
                ('due_at', models.DateTimeField(help_text='of the next attempt after a failed one', null=True)),
                ('leased_until', models.DateTimeField(help_text='a worker sends until then, or died', null=True)),
                ('last_error', models.CharField(blank=True, max_length=250)),
            ],
        ),
        migrations.CreateModel(
            name='Pending',
            fields=[
                ('pk', models.CompositePrimaryKey('source', 'key', blank=True, editable=False, primary_key=True, serialize=False)),
                ('source', models.CharField(choices=[('audit', 'record of the audit chain'), ('alert', 'step of an alert'), ('sign-in', 'attempts to sign in'), ('rejected', 'rejected frames of a concentrator')], max_length=8)),
                ('key', models.CharField(help_text='names the row: its number, or concentrator:kind:hour', max_length=80)),
                ('version', models.BigIntegerField(db_default=1)),
                ('noted_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('due_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [models.Index(fields=['due_at'], name='siem_pending_by_time')],
            },
        ),
        migrations.RunSQL(TRIGGERS, WITHOUT),
    ]
