from django.apps import AppConfig


class ConcentratorsConfig(AppConfig):
    name = "concentrators"
    verbose_name = "Concentrators"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        from concentrators.commands import held_commands  # noqa: PLC0415 - models are there only now

        held_commands.settle_approvals()
