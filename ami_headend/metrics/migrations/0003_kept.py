"""Costly figures are kept with the other answers (ami_headend_keptanswer)."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("metrics", "0001_squashed_0002_begin")]
    operations = [migrations.DeleteModel("Snapshot")]
