"""Authentication at a terminal: an account with its password and factor, since the system's user proves nothing."""

import getpass
import sys

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from ami_headend.signin import journal, passwords, secondfactor
from ami_headend.signin.models import SignInOutcome
from ami_headend.signin.secondfactor import SecondFactorError, WrongCodeError
from keyvault.approvals import Person
from keyvault.audit import chain

_PLACE = "terminal"  # instead of an address in the journal of sign-ins


def authenticated(name: str) -> Person:
    """Return the account after its password (typed or on standard input) and its second factor, if any, were verified.

    CommandError if one of them is wrong, or if the account needs a second factor and has none yet.
    """
    if not passwords.are_taken(name):
        raise CommandError(
            "passwords are turned off: do it on the console, signed in at the provider. Nothing was done."
        )
    account = ModelBackend().authenticate(None, username=name, password=_secret(f"Password of {name}: "))
    if not isinstance(account, User):
        journal.record(SignInOutcome.WRONG_PASSWORD, name, _PLACE)
        raise CommandError(f"that is not the password of {name}, or there is no such account. Nothing was done.")
    if secondfactor.is_set_up(account):
        _verify_second_factor(account)
    elif secondfactor.is_required(account):
        raise CommandError(f"{name} needs a second factor: sign in to the console and set it up. Nothing was done.")
    return Person(account, chain.command_actor().source)


def _verify_second_factor(account: User) -> None:
    try:
        secondfactor.verify(account, _secret("Code of the authenticator, or a recovery code: "))
    except WrongCodeError as error:
        journal.record(SignInOutcome.WRONG_CODE, account.get_username(), _PLACE)
        raise CommandError(f"{error} Nothing was done.") from None
    except SecondFactorError as error:
        raise CommandError(f"{error} Nothing was done.") from None


def _secret(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\n")
