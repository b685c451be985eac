from django.apps import AppConfig


class AlertsConfig(AppConfig):
    name = "ami_headend.alerts"
    default_auto_field = "django.db.models.AutoField"
    verbose_name = "Alerts"
