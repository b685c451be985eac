from django.apps import AppConfig


class AmiHeadendConfig(AppConfig):
    name = "ami_headend"
    verbose_name = "AMI head-end"
