from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in


class SignInConfig(AppConfig):
    name = "ami_headend.signin"
    label = "signin"
    verbose_name = "Sign-in"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from ami_headend.signin.sessions import note_beginning  # noqa: PLC0415 - models are loaded now

        user_logged_in.connect(note_beginning, dispatch_uid="signin")
