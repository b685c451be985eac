"""The pages of a sign-in at the OpenID provider: the way there, and the way back."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import View

from ami_headend.core import clock, rate_limits
from ami_headend.core.client_ip import client_address
from ami_headend.core.rate_limits import Counted
from ami_headend.core.text import one_line
from ami_headend.signin import federated, journal, provider, provider_logouts, sessions
from ami_headend.signin.federated import RefusedError
from ami_headend.signin.logout_claims import LogoutError
from ami_headend.signin.models import SignInOutcome
from ami_headend.signin.provider import ProviderError, SignInError, StaleError
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError

logger = logging.getLogger(__name__)

_RATE = "60/minute"  # of one address: each begins a session, or is a logout that is refused
_SESSION_CHARACTERS = 255
_TIMES_UNTIL_S = 253_402_300_800  # the end of the year 9999; what is beyond is no time
_NEXT, _CONFIRMS, _SINCE = "single_sign_on_next", "single_sign_on_confirms", "single_sign_on_since"


@method_decorator(never_cache, name="dispatch")
class _Page(View):
    """A page of a sign-in at the provider, if there is one."""

    http_method_names = ["get"]

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if not provider.is_configured():
            raise Http404("There is no sign-in at a provider: OIDC_ISSUER is not set.")
        try:
            return super().dispatch(request, *args, **kwargs)
        except ProviderError as error:
            logger.error("the OpenID provider %s cannot be used: %s", settings.OIDC_ISSUER, one_line(str(error)))
            provider.forget()
            text = (
                f"{settings.OIDC_NAME} does not answer as it should, so nobody can sign in there now. Try again soon."
            )
            return _refused(request, text, 503)


class ToProviderView(_Page):
    """Sends the browser to the provider: to sign in, or (``confirm``) to prove again who is signed in."""

    def get(self, request: HttpRequest) -> HttpResponse:
        if not rate_limits.allows(_RATE, Counted("single-sign-on", client_address(request) or "")):
            return _refused(request, "Too many sign-ins were begun from your address. Wait a minute.", 429)
        confirms = "confirm" in request.GET and sessions.is_by_provider(request)
        callback = request.build_absolute_uri(reverse("single-sign-on-answer"))
        answer = provider.redirect(request, callback, again_within_s=settings.STEP_UP_S if confirms else None)
        request.session[_NEXT] = request.GET.get("next", "")
        request.session[_CONFIRMS] = confirms
        request.session[_SINCE] = provider_logouts.last()
        return answer


class FromProviderView(_Page):
    """Takes the provider's answer: signs in, confirms, or says why not. Every refusal is journaled."""

    def get(self, request: HttpRequest) -> HttpResponse:
        confirms, following = request.session.pop(_CONFIRMS, False), _next(request)
        since = int(request.session.pop(_SINCE, 0))
        try:
            claims = provider.claims_of(request)
            if confirms:
                return self._confirmed(request, dict(claims), following)
            user = federated.account_of(claims, client_address(request) or "", timezone.now())
            federated.check_second_factor(user, claims)
            _begin(request, user, claims, since)
        except StaleError as error:
            return _refused(request, f"{error} Start again.", 400)
        except SignInError as error:
            return self._turned_away(request, str(error), "")
        except RefusedError as error:
            return self._turned_away(request, str(error), error.account)
        except (AuditError, MasterKeyError) as error:
            logger.error("a sign-in at the OpenID provider could not be recorded: %s", error)
            text = "Your account or roles have to change, and that cannot be recorded now. Nothing was changed."
            return _refused(request, text, 503)
        _note(request, SignInOutcome.PROVIDER, user.get_username())
        return HttpResponseRedirect(following or reverse("admin:index"))

    def _confirmed(self, request: HttpRequest, claims: dict[str, object], following: str) -> HttpResponse:
        """Mark the session as fresh if the same person has just proven it at the provider."""
        user = request.user
        is_fresh = clock.seconds_since(_proven_s(claims), timezone.now().timestamp()) < settings.STEP_UP_S
        if not isinstance(user, User) or not federated.is_same(user, claims) or not is_fresh:
            name = user.get_username()
            return self._turned_away(request, "The provider does not say that you have just proven who you are.", name)
        federated.check_second_factor(user, claims)
        sessions.confirm(request)
        return HttpResponseRedirect(following or reverse("admin:index"))

    def _turned_away(self, request: HttpRequest, why: str, name: str) -> HttpResponse:
        logger.warning("a sign-in at the OpenID provider was refused: %s", one_line(why))
        _note(request, SignInOutcome.PROVIDER_REFUSED, name)
        return _refused(request, why, 403)


@method_decorator([never_cache, csrf_exempt], name="dispatch")
class LogoutView(View):
    """Takes the provider's word that somebody signed out or was removed there, and ends the sessions here.

    The token proves who sends it. Errors are those of OpenID Connect Back-Channel Logout 1.0 section 2.8.
    """

    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        if not provider.is_configured():
            raise Http404("There is no sign-in at a provider: OIDC_ISSUER is not set.")
        refused = Counted("single-sign-on-logout", client_address(request) or "")
        if not rate_limits.has_room(_RATE, refused):
            said = "too many logouts from this address were refused; no session was ended"
            wait = {"Retry-After": f"{rate_limits.wait_s(_RATE, refused):.0f}"}
            return JsonResponse(
                {"error": "temporarily_unavailable", "error_description": said}, status=429, headers=wait
            )
        answer = self._ended(request)
        if answer.status_code != HTTPStatus.OK:  # whoever sends tokens that are none gets so many looked at
            rate_limits.allows(_RATE, refused)
        return answer

    def _ended(self, request: HttpRequest) -> HttpResponse:
        try:
            found = provider.logged_out(request.POST.get("logout_token", ""), timezone.now().timestamp())
            federated.log_out(found, client_address(request) or "", timezone.now())
        except (LogoutError, SignInError) as error:
            logger.warning("a logout by the OpenID provider was refused: %s", one_line(str(error)))
            return JsonResponse({"error": "invalid_request", "error_description": str(error)}, status=400)
        except (ProviderError, AuditError, MasterKeyError) as error:
            logger.error("a logout by the OpenID provider could not be done: %s", one_line(str(error)))
            said = "it cannot be verified or recorded now; no session was ended"
            return JsonResponse({"error": "temporarily_unavailable", "error_description": said}, status=503)
        return HttpResponse(status=200)


def _begin(request: HttpRequest, user: User, claims: Mapping[str, Any], since: int) -> None:
    """Begin and store the session; StaleError if the provider told of a logout while the sign-in was under way."""
    session = str(claims.get("sid", ""))[:_SESSION_CHARACTERS]
    with transaction.atomic():
        if provider_logouts.ended(str(claims["sub"]), session, since):
            raise StaleError("You were signed out at the provider meanwhile.")
        issuer, proven_s = settings.OIDC_ISSUER, _proven_s(claims)
        sessions.begin(request, user, None, by_provider=issuer, provider_session=session, proven_s=proven_s)
        request.session.save()


def _proven_s(claims: Mapping[str, Any]) -> float:
    """Return when the user last gave the provider a proof (``auth_time``), in Unix seconds; 0 if it does not say."""
    at_s = claims.get("auth_time")
    return float(at_s) if isinstance(at_s, int | float) and 0 < at_s < _TIMES_UNTIL_S else 0.0


def _refused(request: HttpRequest, text: str, status: int) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Not signed in", "text": text}
    return render(request, "signin/locked.html", context, status=status)


def _note(request: HttpRequest, outcome: SignInOutcome, name: str) -> None:
    journal.record(outcome, name, client_address(request) or "")


def _next(request: HttpRequest) -> str:
    wanted = str(request.session.pop(_NEXT, ""))
    is_ours = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if is_ours else ""
