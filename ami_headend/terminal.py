"""Who sits at a terminal: an account, shown by its password. The system's user says nothing about that."""

import getpass
import sys

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from keyvault import audit
from keyvault.approvals import Person


def authenticated(name: str) -> Person:
    """The account whose password is typed (or stands on standard input); CommandError where it is not the right one."""
    password = _secret(f"Password of {name}: ")
    account = ModelBackend().authenticate(None, username=name, password=password)
    if not isinstance(account, User):
        raise CommandError(f"that is not the password of {name}, or there is no such account. Nothing was done.")
    return Person(account, audit.command_actor().source)


def _secret(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\n")
