from django.apps import AppConfig


class MetricsConfig(AppConfig):
    name = "ami_headend.metrics"
    verbose_name = "Metrics"
    default_auto_field = "django.db.models.AutoField"
