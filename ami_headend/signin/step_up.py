"""Step-up: acts on accounts, approvals, tokens, keys and channels take a fresh proof, not a session alone (ASVS 7.5).

Whoever has a session's cookie, and nothing else, may look and do what is done every day. All other addresses, new ones
by themselves, ask for a code of the second factor (the password, where the account has none) unless one was given in
the last STEP_UP_S seconds; signing in gives one. Requests by password (HTTP basic) bring theirs along each time.
"""

from collections.abc import Callable

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

# Addresses that change something and ask for no proof: what operators do every day, and what asks by itself. An act of
# theirs that concerns keys asks where it is known (ami_headend.core.step_up).
EVERYDAY = frozenset(
    {
        # Signing in and out; each change of the account's own second factor takes a code or a confirmed session.
        *("admin:logout", "admin:login", "admin:sign-in", "second-factor", "second-factor-set-up"),
        # Failures and alerts are acknowledged; the audit chain is walked.
        *("admin:failures", "admin:failure", "admin:failures-acknowledge", "admin:acknowledgement"),
        *("admin:alerts", "admin:alert", "admin:audit"),
        # Meters are enrolled, placed and asked; places are written down.
        *("admin:meter", "meter-commands", "meter-command", "resends"),
        *(f"admin:meters_meter_{page}" for page in ("changelist", "add", "change", "assign", "interval")),
        *(f"admin:meters_meter_{act}" for act in ("suspend", "resume", "install", "exchange", "retire")),
        *(f"admin:meters_place_{page}" for page in ("changelist", "add", "change")),
        *("places", "place"),
    }
)
# Pages that take the proof before they are shown: forms in which passwords are written or a file is chosen, which would
# have to be given twice, and what is sensitive to read in itself.
ASKED_FIRST = frozenset(
    {
        *("admin:auth_user_add", "admin:auth_user_password_change", "admin:password_change"),
        *("admin:meter-import", "admin:audit-export"),
    }
)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_FIELD = "step_up_proof"


class StepUp:
    """Middleware: asks for the proof before the act; the form for it sends along what was sent, and the act goes on."""

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
            return None  # it asks by itself
        if not problems.asked_by_a_program(request) and _FIELD in request.POST:
            return _answered(request)
        return None if name in EVERYDAY else _ask(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return _ask(request) if isinstance(exception, StepUpNeededError) else None


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class StepUpView(View):
    """The proof by itself, for whoever uses the API with a session, or comes to a form that takes one."""

    name = "step-up"

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if not admin.site.has_permission(request):
            return redirect("admin:login")
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
    return _page(request, _form(request, is_bound=False), _sent(request), request.get_full_path(), status=403)


def _first(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse('step-up')}?{urlencode({'next': request.get_full_path()})}")


def _answered(request: HttpRequest) -> HttpResponse | None:
    """None where the proof was right: the act goes on."""
    form = _form(request)
    refused = _prove(request, form) if form.is_valid() else None
    if refused is not None or form.is_valid():
        return refused
    return _page(request, form, _sent(request), request.get_full_path(), status=403)


def _prove(request: HttpRequest, form: ProofForm) -> HttpResponse | None:
    """Check the proof: the session is fresh, or the form says why not. An answer where the account is locked out."""
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
    """What was sent, to be sent along with the proof; passwords are written anew."""
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
