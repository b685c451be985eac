from django.apps import AppConfig


class MetersConfig(AppConfig):
    name = "meters"
    verbose_name = "Meters"
    default_auto_field = "django.db.models.AutoField"
