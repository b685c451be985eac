"""Sessions: they begin once every factor is verified, and end by several limits."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import django_otp
from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django_otp import DEVICE_ID_SESSION_KEY
from django_otp.models import Device

from ami_headend.core import clock
from ami_headend.core.client_ip import client_address
from ami_headend.signin import secondfactor
from ami_headend.signin.models import Session
from ami_headend.signin.session_store import ADDRESS as _ADDRESS
from ami_headend.signin.session_store import BEGAN as _BEGAN
from ami_headend.signin.session_store import BROWSER as _BROWSER
from ami_headend.signin.session_store import PROVIDER as _PROVIDER
from ami_headend.signin.session_store import PROVIDER_SESSION as _PROVIDER_SESSION
from ami_headend.signin.session_store import USED as _USED
from ami_headend.signin.session_store import digest_of

PENDING_S = 600  # between the password and the second factor
_PENDING, _FACTOR, _CONFIRMED = "sign_in_pending", "sign_in_factor", "sign_in_confirmed"
_PROVEN = "sign_in_proven"  # when whoever the provider signed in gave it a proof, as it says
_USE_RECORDED_EVERY_S = 60
_BROWSER_CHARACTERS = 200


class PendingSignIn(NamedTuple):
    """Somebody whose password was right, but whose second factor is not verified yet: nobody is signed in."""

    user: User
    next_page: str


def wait_for_second_factor(request: HttpRequest, user: User, next_page: str) -> None:
    """Remember whose password was right until the second factor is verified, for PENDING_S at most."""
    request.session.cycle_key()
    request.session[_PENDING] = [user.pk, user.get_session_auth_hash(), next_page, time.time()]


def pending(request: HttpRequest) -> PendingSignIn | None:
    """Return who has yet to give the second factor; None if nobody, or if it took too long."""
    found: list[Any] | None = request.session.get(_PENDING)
    if found is None:
        return None
    pk, password_hash, next_page, at = found
    user = User.objects.filter(pk=pk, is_active=True).first()
    # If the password was changed meanwhile, it was not the right one.
    if (
        user is None
        or _since_s(at) > PENDING_S
        or not constant_time_compare(password_hash, user.get_session_auth_hash())
    ):
        forget_pending(request)
        return None
    return PendingSignIn(user, next_page)


def forget_pending(request: HttpRequest) -> None:
    """Start again with the password."""
    request.session.pop(_PENDING, None)


def begin(
    request: HttpRequest,
    user: User,
    device: Device | None,
    *,
    by_provider: str = "",
    provider_session: str = "",
    proven_s: float = 0,
) -> None:
    """Sign the user in, with the verified second factor if there is one, or by the word of a provider (its issuer).

    ``proven_s``: when the user last gave the provider a proof, in Unix seconds; 0 if it does not say.
    """
    forget_pending(request)
    if device is not None:
        user.otp_device = device  # type: ignore[attr-defined]  # django-otp's login takes it from there
    auth.login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session[_FACTOR] = device is not None
    request.session[_PROVIDER] = by_provider
    request.session[_PROVIDER_SESSION] = provider_session
    request.session[_PROVEN] = proven_s


def is_by_provider(request: HttpRequest) -> bool:
    """Whether the session began at the provider, where its user then proves who it is."""
    return is_signed_in(request) and bool(request.session.get(_PROVIDER))


def note_beginning(*, request: HttpRequest, **_: Any) -> None:
    """Record when and from where a session began, at every door. Receiver of Django's ``user_logged_in``."""
    request.session[_BEGAN] = request.session[_USED] = time.time()
    request.session[_ADDRESS] = client_address(request) or ""
    request.session[_BROWSER] = request.headers.get("User-Agent", "").replace("\0", "")[:_BROWSER_CHARACTERS]


def verified_by(request: HttpRequest, device: Device) -> None:
    """Mark the session as verified by the second factor that it set up."""
    django_otp.login(request, device)
    request.session[_FACTOR] = True
    request.session.pop(_CONFIRMED, None)


def confirm(request: HttpRequest) -> None:
    """Record that the user gave a proof just now. The session gets a new key, so that a stolen one gains nothing."""
    request.session.cycle_key()
    request.session[_CONFIRMED] = time.time()


def is_confirmed(request: HttpRequest) -> bool:
    """Whether a proof was given since the sign-in, less than PENDING_S ago."""
    return _since_s(request.session.get(_CONFIRMED, 0)) < PENDING_S


def is_fresh(request: HttpRequest) -> bool:
    """Whether the last proof, at the sign-in or since, was given less than STEP_UP_S ago.

    A provider signs in without a word whoever is signed in there: then the proof is as old as it says.
    """
    session = request.session
    at_sign_in = _PROVEN if session.get(_PROVIDER) else _BEGAN
    return min(_since_s(session.get(name, 0)) for name in (at_sign_in, _CONFIRMED)) < settings.STEP_UP_S


def is_signed_in(request: HttpRequest) -> bool:
    """Whether the request belongs to somebody's session; without its cookie, no session is looked up."""
    return settings.SESSION_COOKIE_NAME in request.COOKIES and auth.SESSION_KEY in request.session


def of_account(user: User) -> list[Session]:
    """Return the sessions of an account that would be accepted now, the most recently used first."""
    rows = Session.objects.filter(account=user, expire_date__gt=timezone.now()).order_by("-used_s")
    return [row for row in rows if _would_be_let_in(row, user)]


def is_of_request(row: Session, request: HttpRequest) -> bool:
    """Whether a session is that of the request."""
    return row.session_key == digest_of(request.session.session_key or "")


def end(user: User, keys: Collection[str]) -> int:
    """End sessions of an account by the digests of their keys; return how many there were."""
    return Session.objects.filter(account=user, session_key__in=keys).delete()[0]


def forget_second_factor(request: HttpRequest) -> None:
    """Let this session go on without the second factor that its user removed."""
    request.session[_FACTOR] = False


class SessionLimits:
    """Middleware: ends sessions that are unused, too old, or lack the second factor that they need.

    A page that refreshes itself is no sign of a person, so requests of scripts (Sec-Fetch-Mode) do not count as use.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Not by request.user, so that no session is looked up for posts of concentrators.
        if is_signed_in(request) and request.user.is_authenticated:
            why = _over(request)
            if why is None:
                _note_use(request)
            else:
                auth.logout(request)
                messages.warning(request, why)
        return self.get_response(request)


def _over(request: HttpRequest) -> str | None:
    """Return why the session is over; None if it is not."""
    session = request.session
    if _is_too_old(session):
        return "You were signed out: a session lasts only so long. Sign in again."
    if _is_unused(session):
        return "You were signed out, because this session was not used for a while. Sign in again."
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - somebody is signed in
    if session.get(_PROVIDER):
        if session[_PROVIDER] == settings.OIDC_ISSUER:
            return None  # the second factor is the provider's
        return "You were signed out, because people sign in elsewhere now. Sign in again."
    if user.is_verified():  # type: ignore[attr-defined]  # by OTPMiddleware
        return None
    if session.get(_FACTOR):
        return "You were signed out, because your second factor was removed or replaced. Sign in again."
    if secondfactor.is_required(user):
        return "Your account now needs a second factor. Sign in again to set it up."
    return None


def _since_s(at_s: float) -> float:
    return clock.seconds_since(at_s, time.time())


def _is_too_old(session: Mapping[str, Any]) -> bool:
    return _since_s(session.get(_BEGAN, 0)) > settings.SESSION_ABSOLUTE_S


def _is_unused(session: Mapping[str, Any]) -> bool:
    return _since_s(session.get(_USED, 0)) > settings.SESSION_IDLE_S


def _would_be_let_in(row: Session, user: User) -> bool:
    """Decide as ``SessionLimits`` and Django do for a request: by its times, the password and the second factor."""
    data = row.get_decoded()
    if _is_too_old(data) or _is_unused(data):
        return False
    if not constant_time_compare(data.get(auth.HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        return False
    if data.get(_PROVIDER):
        return bool(data[_PROVIDER] == settings.OIDC_ISSUER)
    device = Device.from_persistent_id(data[DEVICE_ID_SESSION_KEY]) if DEVICE_ID_SESSION_KEY in data else None
    if device is not None:
        return bool(device.user_id == user.pk)
    return not data.get(_FACTOR) and not secondfactor.is_required(user)


def _note_use(request: HttpRequest) -> None:
    session, now = request.session, time.time()
    address = client_address(request) or ""
    if session.get(_ADDRESS) and address != session[_ADDRESS]:
        session[_ADDRESS] = address
    by_script = request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    if not by_script and now - session[_USED] > _USE_RECORDED_EVERY_S:
        session[_USED] = now
