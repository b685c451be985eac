from django.apps import AppConfig


class KeyvaultConfig(AppConfig):
    name = "keyvault"
    verbose_name = "Keys"
    default_auto_field = "django.db.models.AutoField"
