import gc

from django.apps import AppConfig


class AmiHeadendConfig(AppConfig):
    name = "ami_headend"
    verbose_name = "AMI head-end"

    def ready(self) -> None:
        from ami_headend import celery, settings_checks  # noqa: F401, PLC0415 - the app of shared tasks; checks

        gc.freeze()  # everything loaded so far stays; the collector need not scan it again
        gc.enable()
