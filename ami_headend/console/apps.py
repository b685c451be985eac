from django.contrib.admin.apps import SimpleAdminConfig


class ConsoleConfig(SimpleAdminConfig):
    """Django's admin with the console as its site. Its pages load with the addresses (ami_headend.urls), if at all."""

    default_site = "ami_headend.console.site.ConsoleSite"
