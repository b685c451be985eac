from django.apps import AppConfig


class ConcentratorsConfig(AppConfig):
    name = "concentrators"
    verbose_name = "Concentrators"
    default_auto_field = "django.db.models.AutoField"
