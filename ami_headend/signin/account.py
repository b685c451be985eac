"""The page on which an account sees how it signs in, and changes its second factor."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from ami_headend.addresses import client_address
from ami_headend.console.page import ConsolePage
from ami_headend.signin import journal, lockout, secondfactor, sessions
from ami_headend.signin.forms import CodeForm
from ami_headend.signin.models import Outcome
from ami_headend.signin.secondfactor import SecondFactorError, WrongCodeError
from ami_headend.signin.views import NOT_RECORDED, codes_page
from keyvault.audit import AuditError, web_actor
from keyvault.masterkey import MasterKeyError

_ATTEMPTS_SHOWN = 10


class AccountPage(ConsolePage):
    """How the account that is signed in signs in, and what it may change about that."""

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
            "is_required": secondfactor.is_required(user),
            "codes_left": secondfactor.codes_left(user),
            "attempts": journal.of_account(user.get_username(), _ATTEMPTS_SHOWN),
            **kwargs,
        }
        return super().get_context_data(**context)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form = CodeForm(request.POST)
        answered = _changed(request, _user(request), form) if form.is_valid() else None
        return answered or self.render_to_response(self.get_context_data(form=form))


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101 - the site let nobody else in
    return request.user


def _changed(request: HttpRequest, user: User, form: CodeForm) -> HttpResponse | None:
    """One change, confirmed by a code of the second factor; None where the form says what was wrong."""
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
        secondfactor.verify(user, form.cleaned_data["code"])
        return change(request, user)
    except WrongCodeError as error:
        journal.record(Outcome.WRONG_CODE, name, client_address(request) or "")
        lockout.count_wrong_code(request, name)
        form.add_error("code", str(error))
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
    messages.success(request, "The second factor was taken away: your password alone signs you in.")
    return redirect("admin:sign-in")
