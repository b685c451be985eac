"""Proofs that the account's owner acts: a code of the second factor, or the password.

Every wrong one is a failed attempt, as at the sign-in: journaled, and counted towards the same lock-out.
"""

from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.http import HttpRequest
from django_otp.models import Device

from ami_headend.core.client_ip import client_address
from ami_headend.signin import journal, lockout, secondfactor
from ami_headend.signin.models import SignInOutcome
from ami_headend.signin.secondfactor import SecondFactorError, WrongCodeError


class WrongPasswordError(SecondFactorError):
    """The password is not the account's: a guess, which counts as a failed sign-in."""


def check_code(request: HttpRequest, user: User, code: str) -> Device:
    """Return the factor that accepted the code. WrongCodeError if none did, SecondFactorError if it is too early to
    try.
    """
    try:
        return secondfactor.verify(user, code)
    except WrongCodeError:
        journal.record(SignInOutcome.WRONG_CODE, user.get_username(), client_address(request) or "")
        lockout.count_wrong(request, user.get_username())
        raise


def check_password(request: HttpRequest, user: User, password: str) -> None:
    """WrongPasswordError if it is not the account's password."""
    found = authenticate(request, username=user.get_username(), password=password)
    if found is None or found.pk != user.pk:
        if not lockout.is_locked_out(request):
            journal.record(SignInOutcome.WRONG_PASSWORD, user.get_username(), client_address(request) or "")
        raise WrongPasswordError("This is not the password of your account.")


def check(request: HttpRequest, user: User, proof: str) -> None:
    """Check the account's proof: a code if it has a second factor, otherwise its password.

    SecondFactorError says what was wrong.
    """
    if secondfactor.is_set_up(user):
        check_code(request, user, proof)
    else:
        check_password(request, user, proof)
