from django.contrib.admin.apps import SimpleAdminConfig


class ConsoleConfig(SimpleAdminConfig):
    """Django's admin, with the console as its site. Its pages load only with the URLs (ami_headend.urls)."""

    default_site = "ami_headend.console.site.ConsoleSite"
