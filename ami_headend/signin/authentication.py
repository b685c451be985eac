"""Passwords on the REST API, for accounts that need only one factor."""

import hmac
import secrets

from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpRequest
from drf_spectacular.authentication import BasicScheme
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from ami_headend.core.client_ip import client_address
from ami_headend.signin import journal, lockout, passwords, secondfactor
from ami_headend.signin.models import SignInOutcome

_KEY = secrets.token_bytes(32)  # of this process, so that no other process can use or look up what it remembers
_VERIFIED_S = 60


def _mark(user: User, password: str) -> str:
    """Return a mark of a correct password; it is bound to the stored hash, so any change of that voids it."""
    return hmac.digest(_KEY, f"{user.pk}\0{user.password}\0{password}".encode(), "sha256").hex()


def _verified_lately(request: HttpRequest, name: str, password: str) -> User | None:
    """Return the account if this password was verified within the last minute; hashing it would take 200 ms.

    None for inactive or locked accounts. A wrong password is never remembered.
    """
    user = User.objects.filter(username=name, is_active=True).first()
    if user is None or cache.get(_mark(user, password)) != user.pk or lockout.is_locked(request, name):
        return None
    return user


class PasswordAuthentication(BasicAuthentication):
    """HTTP basic authentication (RFC 7617), with the same lock-out after failures as the sign-in page.

    An account that has or needs a second factor is refused: a password alone would bypass it.
    """

    www_authenticate_realm = "ami-headend"

    def authenticate_credentials(
        self, userid: str, password: str, request: HttpRequest | Request | None = None
    ) -> tuple[User, None]:
        # Django's own request: lock-outs are noted on it, and its middleware answers them.
        plain = request._request if isinstance(request, Request) else request  # noqa: SLF001
        assert plain is not None  # noqa: S101 - DRF always gives it
        if "\0" in userid:
            raise AuthenticationFailed("The name or the password is wrong.")
        address = client_address(plain) or ""
        if not passwords.are_taken(userid):
            journal.record(SignInOutcome.PASSWORDS_OFF, userid, address)
            raise AuthenticationFailed("Passwords are turned off here: give the program a token.")
        user = _verified_lately(plain, userid, password) or authenticate(plain, username=userid, password=password)
        if user is None:
            if not lockout.is_locked_out(plain):
                journal.record(SignInOutcome.WRONG_PASSWORD, userid, address)
            raise AuthenticationFailed("The name or the password is wrong.")
        assert isinstance(user, User)  # noqa: S101
        cache.set(_mark(user, password), user.pk, _VERIFIED_S)
        if secondfactor.is_set_up(user) or secondfactor.is_required(user):
            journal.record(SignInOutcome.REFUSED, userid, address)
            raise PermissionDenied(
                "This account signs in with two factors, and a password alone is not enough: use the console, or give "
                "the program a token of its own, with the scopes that it needs and no others."
            )
        return user, None


class PasswordScheme(BasicScheme):  # type: ignore[no-untyped-call]
    """Describes this authentication in the API's schema."""

    target_class = PasswordAuthentication  # type: ignore[assignment]
    priority = 0
