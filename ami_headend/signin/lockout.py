"""Lock-out after failed attempts: django-axes counts them by account and address, for a limited time.

The limits are in ``settings/security.py``.
"""

from axes.handlers.proxy import AxesProxyHandler
from axes.utils import reset
from django.conf import settings
from django.contrib.admin import site
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import salted_hmac

from ami_headend.core.client_ip import client_address
from ami_headend.core.text import counted
from ami_headend.signin import journal
from ami_headend.signin.models import SignInOutcome
from ami_headend.web import problems

_NAME_CHARACTERS = 150


def name_given(request: HttpRequest, credentials: dict[str, str] | None) -> str:
    """Return a keyed hash under which failures of a name are counted (AXES_USERNAME_CALLABLE).

    People type passwords into the field of the name, so names without an account are stored nowhere in clear.
    """
    return _hashed(((credentials or {}).get("username") or "")[:_NAME_CHARACTERS])


def is_locked(request: HttpRequest, name: str) -> bool:
    """Whether attempts for this account from this address have to wait."""
    return not AxesProxyHandler.is_allowed(request, {"username": name})


def is_locked_out(request: HttpRequest) -> bool:
    """Whether this request was refused or reached the limit: ``answer`` will be its response."""
    return bool(getattr(request, "axes_locked_out", False))


def count_wrong(request: HttpRequest, name: str) -> None:
    """Count a wrong code or old password as a failed sign-in, towards the same limit."""
    user_login_failed.send(sender=__name__, credentials={"username": name}, request=request)


def unlock(name: str) -> int:
    """Let the account in again from everywhere; return how many records of failures were deleted."""
    return int(reset(username=_hashed(name)))


def _hashed(name: str) -> str:
    return salted_hmac("ami_headend.signin.lockout", name, algorithm="sha256").hexdigest()


def answer(request: HttpRequest, response: HttpResponse, credentials: dict[str, str] | None) -> HttpResponse:
    """Return the answer of a lock-out (AXES_LOCKOUT_CALLABLE): the same whether or not the account exists."""
    name = (credentials or {}).get("username") or ""
    journal.record(SignInOutcome.LOCKED_OUT, name, client_address(request) or "")
    minutes = settings.SIGN_IN_LOCKOUT_S // 60 or 1
    text = (
        f"Too many failed attempts. Wait {counted(minutes, 'minute')}, or ask an administrator to unlock the account."
    )
    headers = {"Retry-After": str(settings.SIGN_IN_LOCKOUT_S)}
    if problems.asked_by_a_program(request):
        return problems.problem(request, 429, text, headers=headers)
    context = {**site.each_context(request), "title": "Locked out", "text": text}
    answered = render(request, "signin/locked.html", context, status=429)
    for header, value in headers.items():
        answered[header] = value
    return answered
