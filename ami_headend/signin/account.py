"""The page on which an account sees how it signs in and changes its second factor."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from ami_headend.console.page import ConsolePage
from ami_headend.signin import journal, lockout, proofs, secondfactor, sessions
from ami_headend.signin.forms import CodeForm
from ami_headend.signin.secondfactor import SecondFactorError
from ami_headend.signin.views import NOT_RECORDED, codes_page
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError

_ATTEMPTS_SHOWN = 10


class AccountPage(ConsolePage):
    """How the signed-in account signs in, and what it may change about that."""

    route = "account/sign-in/"
    name = "sign-in"
    title = "Sign-in of this account"
    icon = "shield_person"
    template_name = "signin/account.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user = _user(self.request)
        context = {
            "form": CodeForm(),
            "is_set_up": secondfactor.is_set_up(user),
            "provider": settings.OIDC_NAME if sessions.is_by_provider(self.request) else "",
            "is_required": secondfactor.is_required(user),
            "codes_left": secondfactor.codes_left(user),
            "sessions": [
                {"row": row, "is_this": sessions.is_of_request(row, self.request)} for row in sessions.of_account(user)
            ],
            "attempts": journal.of_account(user.get_username(), _ATTEMPTS_SHOWN),
            **kwargs,
        }
        return super().get_context_data(**context)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.POST.get("change") == "end":
            return _end_sessions(request, _user(request))
        form = CodeForm(request.POST)
        answered = _changed(request, _user(request), form) if form.is_valid() else None
        return answered or self.render_to_response(self.get_context_data(form=form))


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101 - the site let nobody else in
    return request.user


def _end_sessions(request: HttpRequest, user: User) -> HttpResponse:
    """End the chosen sessions of the account, or all but the present one."""
    own = sessions.of_account(user)
    chosen = set(request.POST.getlist("session"))
    ended = sessions.end(
        user,
        [
            row.session_key
            for row in own
            if not sessions.is_of_request(row, request) and (row.session_key in chosen or "others" in chosen)
        ],
    )
    messages.success(request, f"{ended} session{'s' * (ended != 1)} ended." if ended else "No other session was open.")
    return redirect("admin:sign-in")


def _changed(request: HttpRequest, user: User, form: CodeForm) -> HttpResponse | None:
    """Make one change, confirmed by a code of the second factor; None if the form has an error."""
    changes: dict[str, Callable[[HttpRequest, User], HttpResponse]] = {
        "replace": _confirm_replacing,
        "codes": _renew_codes,
        "remove": _remove,
    }
    change = changes.get(request.POST.get("change", ""))
    if change is None:
        form.add_error(None, "Choose what to change.")
        return None
    name = user.get_username()
    if lockout.is_locked(request, name):
        return lockout.answer(request, HttpResponse(), {"username": name})
    try:
        proofs.check_code(request, user, form.cleaned_data["code"])
        return change(request, user)
    except SecondFactorError as error:
        form.add_error("code", str(error))
    except (AuditError, MasterKeyError) as error:
        form.add_error(None, NOT_RECORDED.format(error))
    return None


def _confirm_replacing(request: HttpRequest, user: User) -> HttpResponse:
    sessions.confirm(request)
    return redirect("second-factor-set-up")


def _renew_codes(request: HttpRequest, user: User) -> HttpResponse:
    codes = secondfactor.renew_recovery_codes(user, web_actor(request))
    return codes_page(request, codes, reverse("admin:sign-in"))


def _remove(request: HttpRequest, user: User) -> HttpResponse:
    if secondfactor.is_required(user):
        raise SecondFactorError("Your account needs a second factor: replace it instead.")
    secondfactor.remove(user, web_actor(request))
    sessions.forget_second_factor(request)
    messages.success(request, "The second factor was removed: your password alone signs you in.")
    return redirect("admin:sign-in")
