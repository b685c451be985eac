"""The pages of the sign-in: password, second factor, and its set-up."""

import logging
from typing import Any

import segno
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import View
from unfold.forms import AdminOwnPasswordChangeForm, AuthenticationForm

from ami_headend.core.client_ip import client_address
from ami_headend.signin import journal, lockout, passwords, proofs, provider, secondfactor, sessions
from ami_headend.signin.forms import CodeForm, SetUpForm
from ami_headend.signin.models import SignInOutcome
from ami_headend.signin.secondfactor import SecondFactorError
from keyvault.audit.chain import Actor, AuditError
from keyvault.master_key import MasterKeyError

logger = logging.getLogger(__name__)

_SALT = "sign_in_salt"
NOT_RECORDED = "This must be recorded in the audit chain, which cannot be written now ({}). Nothing was changed."


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class SignInView(LoginView):
    """Asks for name and password; then for the second factor of accounts that have or need one."""

    template_name = "signin/sign_in.html"
    authentication_form = AuthenticationForm
    next_page = "admin:index"
    extra_context = {"title": "Sign in"}

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if admin.site.has_permission(request):
            return HttpResponseRedirect(self.get_success_url())
        return super().get(request, *args, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = request.POST.get("username", "")
        if not passwords.are_taken(name):
            journal.record(SignInOutcome.PASSWORDS_OFF, name, client_address(request) or "")
            messages.error(request, f"Passwords are turned off here. Sign in with {settings.OIDC_NAME}.")
            return redirect("admin:login")
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        user = form.get_user()
        if secondfactor.is_set_up(user) or secondfactor.is_required(user):
            sessions.wait_for_second_factor(self.request, user, self.get_success_url())
            return redirect("second-factor")
        _note(self.request, user, SignInOutcome.SIGNED_IN)
        sessions.begin(self.request, user, None)
        return HttpResponseRedirect(self.get_success_url())

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        name = form.cleaned_data.get("username")
        if name and form.cleaned_data.get("password") and not lockout.is_locked_out(self.request):
            journal.record(SignInOutcome.WRONG_PASSWORD, name, client_address(self.request) or "")
        return super().form_invalid(form)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {
            **admin.site.each_context(self.request),
            "app_path": self.request.get_full_path(),
            "provider": settings.OIDC_NAME if provider.is_configured() else "",
            "provider_url": f"{reverse('single-sign-on')}?{urlencode({'next': self.get_redirect_url()})}",
            "takes_passwords": settings.PASSWORD_SIGN_IN or "password" in self.request.GET,
            **super().get_context_data(**kwargs),
        }


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class SecondFactorView(View):
    """The second step of a sign-in: a code of the authenticator, or a recovery code."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        pending = sessions.pending(request)
        if pending is None:
            messages.info(request, "Start with name and password.")
            return redirect("admin:login")
        if not secondfactor.is_set_up(pending.user):
            return redirect("second-factor-set-up")
        form = CodeForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            return self.verify(request, pending, form)
        return _page(request, "signin/second_factor.html", "Second factor", form=form, account=pending.user)

    def verify(self, request: HttpRequest, pending: sessions.PendingSignIn, form: CodeForm) -> HttpResponse:
        user, name = pending.user, pending.user.get_username()
        if lockout.is_locked(request, name):
            return lockout.answer(request, HttpResponse(), {"username": name})
        try:
            device = proofs.check_code(request, user, form.cleaned_data["code"])
        except SecondFactorError as error:
            form.add_error("code", str(error))
            return _page(request, "signin/second_factor.html", "Second factor", form=form, account=user)
        by_recovery = device.model_label() != "signin.authenticator"
        _note(request, user, SignInOutcome.RECOVERY_CODE if by_recovery else SignInOutcome.SIGNED_IN)
        sessions.begin(request, user, device)
        if by_recovery:
            left = secondfactor.codes_left(user)
            messages.warning(request, f"A recovery code was used: {left} are left. Make new ones before they run out.")
        return HttpResponseRedirect(pending.next_page)


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class SetUpView(View):
    """Set-up of an authenticator: at a sign-in that needs one, by choice, or to replace another."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        pending = sessions.pending(request)
        if pending is None and not admin.site.has_permission(request):
            return redirect("admin:login")
        if pending is None and sessions.is_by_provider(request):
            messages.info(request, f"Your second factor is that of {settings.OIDC_NAME}.")
            return redirect("admin:sign-in")
        user = request.user if pending is None else pending.user
        assert isinstance(user, User)  # noqa: S101 - neither anonymous
        is_confirmed = pending is None and sessions.is_confirmed(request)
        is_set_up = secondfactor.is_set_up(user)
        if is_set_up and not is_confirmed:
            return redirect("second-factor" if pending else "admin:sign-in")
        if pending is None and not is_confirmed:
            # A session alone sets up no factor: somebody who stole it would own the account.
            return redirect(f"{reverse('step-up')}?{urlencode({'next': request.path})}")
        salt = request.session.setdefault(_SALT, secondfactor.new_salt())
        form = SetUpForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            keep = secondfactor.replace if is_set_up else secondfactor.set_up
            try:
                device, codes = keep(user, salt, form.cleaned_data["code"], _actor(request, user))
            except SecondFactorError as error:
                form.add_error("code", str(error))
            except (AuditError, MasterKeyError) as error:
                form.add_error(None, NOT_RECORDED.format(error))
            else:
                del request.session[_SALT]
                if pending is None:
                    sessions.verified_by(request, device)
                else:
                    _note(request, user, SignInOutcome.SIGNED_IN)
                    sessions.begin(request, user, device)
                return codes_page(request, codes, pending.next_page if pending else reverse("admin:sign-in"))
        authenticator = secondfactor.candidate(user, salt)
        return _page(
            request,
            "signin/set_up.html",
            "Set up the second factor",
            form=form,
            qr=_qr(authenticator.config_url),
            secret=_in_groups(authenticator.secret),
            is_required=pending is not None,
        )


class OwnPasswordView(PasswordChangeView):
    """A new password for one's own account. Wrong old passwords count as failed attempts to sign in."""

    form_class = AdminOwnPasswordChangeForm

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = request.user.get_username()
        if lockout.is_locked(request, name):
            return lockout.answer(request, HttpResponse(), {"username": name})
        return super().post(request, *args, **kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        if form.cleaned_data.get("old_password") is None and form.data.get("old_password"):
            name = self.request.user.get_username()
            journal.record(SignInOutcome.WRONG_PASSWORD, name, client_address(self.request) or "")
            lockout.count_wrong(self.request, name)
        return super().form_invalid(form)


def _note(request: HttpRequest, user: User, outcome: SignInOutcome) -> None:
    if not settings.PASSWORD_SIGN_IN:
        outcome = SignInOutcome.BREAK_GLASS
        logger.warning("the break-glass account %s signed in with its password", user.get_username())
    journal.record(outcome, user.get_username(), client_address(request) or "")


def _actor(request: HttpRequest, user: User) -> Actor:
    """Return the account whose password was right; it need not be signed in yet."""
    return Actor(user.get_username(), request.META.get("REMOTE_ADDR", ""))


def _page(request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
    return render(request, template, {**admin.site.each_context(request), "title": title, **context})


def codes_page(request: HttpRequest, codes: list[str], next_page: str) -> HttpResponse:
    return _page(request, "signin/recovery_codes.html", "Recovery codes", codes=codes, next_page=next_page)


def _qr(text: str) -> SafeString:
    """Draw the text as a QR code in SVG, here, so that it goes to no other host."""
    drawn = segno.make(text, error="m").svg_inline(scale=4, border=4, light="#fff", title="QR code of the secret")
    return mark_safe(drawn)  # noqa: S308 - segno's own drawing of modules


def _in_groups(secret: str) -> str:
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
