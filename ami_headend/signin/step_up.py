"""Step-up: acts on accounts, approvals, tokens, keys and channels need a fresh proof, not only a session (ASVS 7.5).

Somebody with a stolen session cookie can only look, and do everyday acts. All other addresses, including new ones, need
a code of the second factor (the password, if the account has none), unless one was given in the last STEP_UP_S seconds;
signing in counts. Requests by password (HTTP basic) carry their proof each time. Whoever signed in at the OpenID
provider gives the proof there; what was sent waits in the session meanwhile.
"""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import View

from ami_headend.core.step_up import StepUpNeededError
from ami_headend.signin import lockout, proofs, secondfactor, sessions
from ami_headend.signin.forms import ProofForm
from ami_headend.signin.secondfactor import SecondFactorError
from ami_headend.web import problems

# Addresses that change something and need no proof: everyday acts of operators, and pages that demand a proof
# themselves. Acts among them that concern keys demand it once they know (ami_headend.core.step_up).
EVERYDAY = frozenset(
    {
        # Signing in and out; each change of the account's own second factor needs a code or a confirmed session.
        *("admin:logout", "admin:login", "admin:sign-in", "second-factor", "second-factor-set-up"),
        # Acknowledging failures and alerts; verifying the audit chain.
        *("admin:failures", "admin:failure", "admin:failures-acknowledge", "admin:acknowledgement"),
        *("admin:alerts", "admin:alert", "admin:audit", "admin:events"),
        # Enrolling and placing meters, and commands to them; registering places.
        *("admin:meter", "meter-commands", "meter-command", "resends"),
        *(f"admin:meters_meter_{page}" for page in ("changelist", "add", "change", "assign", "interval")),
        *(f"admin:meters_meter_{act}" for act in ("suspend", "resume", "install", "exchange", "retire")),
        *(f"admin:meters_place_{page}" for page in ("changelist", "add", "change")),
        *("places", "place"),
    }
)
# Pages that need the proof before they are shown: forms with passwords or files, which users would have to enter twice,
# and pages that are sensitive to read.
ASKED_FIRST = frozenset(
    {
        *("admin:auth_user_add", "admin:auth_user_password_change", "admin:password_change"),
        *("admin:meter-import", "admin:audit-export"),
        *("admin:concentrators_feeddelivery_add", "admin:concentrators_feeddelivery_change"),
    }
)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_FIELD = "step_up_proof"
_KEPT, _KEPT_CHARACTERS = "step_up_kept", 64 * 1024


class StepUp:
    """Middleware: demands the proof before the act. Its form carries the original input along, so that the act goes
    on.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.is_step_up_fresh = not sessions.is_signed_in(request) or sessions.is_fresh(request)  # type: ignore[attr-defined]
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_: object) -> HttpResponse | None:
        name = request.resolver_match.view_name if request.resolver_match else ""
        if request.is_step_up_fresh:  # type: ignore[attr-defined]
            return None
        if request.method in SAFE_METHODS:
            return _first(request) if name in ASKED_FIRST else None
        if name == StepUpView.name:
            return None  # it demands the proof itself
        if not problems.asked_by_a_program(request) and _FIELD in request.POST and not sessions.is_by_provider(request):
            return _answered(request)
        return None if name in EVERYDAY else _ask(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return _ask(request) if isinstance(exception, StepUpNeededError) else None


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class StepUpView(View):
    """A page for the proof alone, for users of the API with a session, and before forms that need one."""

    name = "step-up"

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if not admin.site.has_permission(request):
            return redirect("admin:login")
        if sessions.is_by_provider(request):
            return _at_provider(request)
        form = _form(request)
        if request.method == "POST" and form.is_valid():
            refused = _prove(request, form)
            if refused is not None:
                return refused
            if form.is_valid():
                return HttpResponseRedirect(_next(request))
        return _page(request, form, [], request.get_full_path())


def _ask(request: HttpRequest) -> HttpResponse:
    if problems.asked_by_a_program(request):
        return problems.step_up_needed(request)
    if request.method in SAFE_METHODS:
        return _first(request)
    if sessions.is_by_provider(request):
        _keep(request)
        return _provider_page(request, reverse("step-up"), status=403)
    return _page(request, _form(request, is_bound=False), _sent(request), request.get_full_path(), status=403)


def _keep(request: HttpRequest) -> None:
    """Keep what was sent in the session, so that it is there again after the way to the provider and back."""
    sent = _sent(request)
    if sum(len(name) + len(value) for name, value in sent) <= _KEPT_CHARACTERS and not request.FILES:
        request.session[_KEPT] = {"action": request.get_full_path(), "sent": sent}
    else:
        request.session.pop(_KEPT, None)


def _at_provider(request: HttpRequest) -> HttpResponse:
    """Ask for a proof at the provider; after one, show what was sent before, to go on with it."""
    if not request.is_step_up_fresh:  # type: ignore[attr-defined]
        return _provider_page(request, request.get_full_path())
    kept = request.session.pop(_KEPT, None)
    if kept is None:
        return HttpResponseRedirect(_next(request))
    return _provider_page(request, "", **kept)


def _provider_page(request: HttpRequest, following: str, status: int = 200, **kept: Any) -> HttpResponse:
    context = {
        **admin.site.each_context(request),
        "title": "Confirm that it is you",
        "account": _user(request),
        "provider": settings.OIDC_NAME,
        "url": f"{reverse('single-sign-on')}?{urlencode({'confirm': '1', 'next': following})}",
        "has_files": bool(request.FILES),
        **kept,
    }
    return render(request, "signin/step_up_at_provider.html", context, status=status)


def _first(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse('step-up')}?{urlencode({'next': request.get_full_path()})}")


def _answered(request: HttpRequest) -> HttpResponse | None:
    """Check the proof sent with an act; None if it was right and the act goes on."""
    form = _form(request)
    refused = _prove(request, form) if form.is_valid() else None
    if refused is not None or form.is_valid():
        return refused
    return _page(request, form, _sent(request), request.get_full_path(), status=403)


def _prove(request: HttpRequest, form: ProofForm) -> HttpResponse | None:
    """Check the proof and mark the session as fresh, or add an error to the form. Return an answer if the account is
    locked.
    """
    user = _user(request)
    name = user.get_username()
    if lockout.is_locked(request, name):
        return lockout.answer(request, HttpResponse(), {"username": name})
    try:
        proofs.check(request, user, form.cleaned_data[_FIELD])
    except SecondFactorError as error:
        form.add_error(_FIELD, str(error))
    else:
        sessions.confirm(request)
        request.is_step_up_fresh = True  # type: ignore[attr-defined]
    return None


def _form(request: HttpRequest, *, is_bound: bool = True) -> ProofForm:
    given = request.POST if is_bound and request.method == "POST" else None
    return ProofForm(given, has_second_factor=secondfactor.is_set_up(_user(request)))


def _sent(request: HttpRequest) -> list[tuple[str, str]]:
    """Return the input to send again with the proof; passwords must be typed again."""
    return [
        (name, str(value))
        for name, values in request.POST.lists()
        for value in values
        if name not in (_FIELD, "csrfmiddlewaretoken") and "password" not in name
    ]


def _page(
    request: HttpRequest, form: ProofForm, sent: list[tuple[str, str]], action: str, status: int = 200
) -> HttpResponse:
    context = {
        **admin.site.each_context(request),
        "title": "Confirm that it is you",
        "form": form,
        "sent": sent,
        "action": action,
        "account": _user(request),
        "has_files": bool(request.FILES),
    }
    return render(request, "signin/step_up.html", context, status=status)


def _next(request: HttpRequest) -> str:
    wanted = request.GET.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if is_ours else reverse("admin:index")


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101 - a session without anybody needs no proof
    return request.user
