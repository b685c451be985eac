from django.apps import AppConfig


class SiemConfig(AppConfig):
    name = "ami_headend.siem"
    label = "siem"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "SIEM"
