"""Sessions: how one begins once every factor is verified, and when it ends."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import django_otp
from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare
from django_otp.models import Device

from ami_headend.signin import secondfactor

PENDING_S = 600  # between the password and the second factor
_PENDING, _BEGAN, _USED, _FACTOR = "sign_in_pending", "sign_in_began", "sign_in_used", "sign_in_factor"
_CONFIRMED = "sign_in_confirmed"
_USE_RECORDED_EVERY_S = 60


class Pending(NamedTuple):
    """Someone whose password was right, and whose second factor is not verified yet: nobody is signed in."""

    user: User
    next_page: str


def wait_for_second_factor(request: HttpRequest, user: User, next_page: str) -> None:
    """Remember whose password was right, until the second factor is verified, for PENDING_S at most."""
    request.session.cycle_key()
    request.session[_PENDING] = [user.pk, user.get_session_auth_hash(), next_page, time.time()]


def pending(request: HttpRequest) -> Pending | None:
    """Who has the second factor before them; None where nobody has, or it took too long."""
    found: list[Any] | None = request.session.get(_PENDING)
    if found is None:
        return None
    pk, password_hash, next_page, at = found
    user = User.objects.filter(pk=pk, is_active=True).first()
    # A password that was changed meanwhile was not the right one after all.
    if (
        user is None
        or time.time() - at > PENDING_S
        or not constant_time_compare(password_hash, user.get_session_auth_hash())
    ):
        forget_pending(request)
        return None
    return Pending(user, next_page)


def forget_pending(request: HttpRequest) -> None:
    """Begin again with the password."""
    request.session.pop(_PENDING, None)


def begin(request: HttpRequest, user: User, device: Device | None) -> None:
    """Sign the user in, with the second factor that was verified, if one was."""
    forget_pending(request)
    if device is not None:
        user.otp_device = device  # type: ignore[attr-defined]  # django-otp's login takes it from there
    auth.login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session[_FACTOR] = device is not None


def note_beginning(*, request: HttpRequest, **_: Any) -> None:
    """Receiver of Django's ``user_logged_in``: from whichever door a session comes, its time runs."""
    request.session[_BEGAN] = request.session[_USED] = time.time()


def verified_by(request: HttpRequest, device: Device) -> None:
    """The session that set up a second factor is verified by it."""
    django_otp.login(request, device)
    request.session[_FACTOR] = True
    request.session.pop(_CONFIRMED, None)


def confirm(request: HttpRequest) -> None:
    """The one who is signed in showed the second factor just now, to replace it."""
    request.session[_CONFIRMED] = time.time()


def is_confirmed(request: HttpRequest) -> bool:
    """Whether that was less than PENDING_S ago."""
    return bool(time.time() - request.session.get(_CONFIRMED, 0) < PENDING_S)


def forget_second_factor(request: HttpRequest) -> None:
    """The second factor was taken away by the one who is signed in: this session goes on without."""
    request.session[_FACTOR] = False


class SessionLimits:
    """Middleware: ends sessions that were not used, lasted long enough, or lack the second factor they need.

    A page that renews itself is no sign of a person: requests of scripts (Sec-Fetch-Mode) do not count as use.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Not by request.user: for a concentrator that posts, no session is looked for.
        has_session = settings.SESSION_COOKIE_NAME in request.COOKIES and auth.SESSION_KEY in request.session
        if has_session and request.user.is_authenticated:
            why = _over(request)
            if why is None:
                _note_use(request)
            else:
                auth.logout(request)
                messages.warning(request, why)
        return self.get_response(request)


def _over(request: HttpRequest) -> str | None:
    """Why the session is over, where it is."""
    session, now = request.session, time.time()
    if now - session.get(_BEGAN, 0) > settings.SESSION_ABSOLUTE_S:
        return "You were signed out: a session lasts only so long. Sign in again."
    if now - session.get(_USED, 0) > settings.SESSION_IDLE_S:
        return "You were signed out, because this session was not used for a while. Sign in again."
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - somebody is signed in
    if user.is_verified():  # type: ignore[attr-defined]  # by OTPMiddleware
        return None
    if session.get(_FACTOR):
        return "You were signed out, because your second factor was taken away or replaced. Sign in again."
    if secondfactor.is_required(user):
        return "Your account needs a second factor from now on. Sign in again to set it up."
    return None


def _note_use(request: HttpRequest) -> None:
    session, now = request.session, time.time()
    by_script = request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    if not by_script and now - session[_USED] > _USE_RECORDED_EVERY_S:
        session[_USED] = now
