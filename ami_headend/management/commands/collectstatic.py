"""manage.py collectstatic: Django's command, which says in one sentence where it cannot write."""

from django.contrib.staticfiles.management.commands import collectstatic

from ami_headend.core.commands import DomainCommand


class Command(DomainCommand, collectstatic.Command):
    examples = "example:\n  manage.py collectstatic --noinput"
    refusals = (OSError,)
    nothing_done = ": the static files are not all there (AMI_VAR_DIR says where they go)."
