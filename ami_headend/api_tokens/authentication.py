"""Authentication of programs by bearer token (RFC 6750), and how often each may come."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication, exceptions, throttling
from rest_framework.request import Request

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.models import ApiToken
from ami_headend.core import bearer, rate_limits
from ami_headend.core.client_ip import client_address
from ami_headend.core.rate_limits import Counted
from ami_headend.web import misdirected
from ami_headend.web.scopes import REALM, Program, Scope

_CHALLENGE = f'Bearer realm="{REALM}"'


class InvalidToken(exceptions.AuthenticationFailed):
    """The token lets nobody in; the message says why, and ``challenge`` does in the terms of RFC 6750."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.challenge = f'{_CHALLENGE}, error="invalid_token", error_description="{why}"'


class TokenAuthentication(authentication.BaseAuthentication):
    """``Authorization: Bearer TOKEN`` of a program. A request with a token is judged by it alone."""

    def authenticate(self, request: Request) -> tuple[Program, ApiToken] | None:
        secret = bearer.given(request.headers)
        if secret is None:
            return None
        now = timezone.now()
        if secret.startswith(bearer.CONCENTRATOR):
            raise InvalidToken("This is the token of a concentrator, and this address takes those of programs.")
        found = tokens.find(secret)
        if found is None:
            if bearer.is_whole(secret):
                misdirected.check(secret)
            raise InvalidToken(f"The token is unknown. It has {_form()}: is it whole?")
        token, is_previous = found
        if why := _refusal(token, now, is_previous=is_previous):
            misdirected.check(secret)  # as if it were unknown here: only its own cell says what became of it
            raise InvalidToken(why)
        tokens.note_use(token, client_address(request._request) or "", now, is_previous=is_previous)  # noqa: SLF001
        maker_id = token.maker_of(is_previous=is_previous)
        return Program(token.pk, token.name, token.scopes, token.group_ids, maker_id), token

    def authenticate_header(self, request: Request) -> str:
        return _CHALLENGE


def _form() -> str:
    """Return what a token of this cell looks like."""
    begin = f"{bearer.PROGRAM}{settings.CELL}{'_' if settings.CELL else ''}"
    return f"{len(begin) + bearer.LENGTH} characters and begins with {begin}"


def _refusal(token: ApiToken, now: datetime, *, is_previous: bool) -> str:
    """Return why a token is refused; an empty text if it is not. Whoever asks knows its secret."""
    state = token.state(now)
    if state == "revoked":
        return f"The token was revoked on {token.revoked_at:%Y-%m-%d}."
    if state == "expired":
        return f"The token expired on {token.expires_at:%Y-%m-%d}: ask for a rotation."
    if is_previous and not token.takes_previous(now):
        return f"The token was rotated on {token.issued_at:%Y-%m-%d}, and its previous secret is refused by now."
    return ""


class TokenThrottle(throttling.BaseThrottle):
    """At most as many requests of one token as API_TOKEN_RATE says; people are not counted."""

    def allow_request(self, request: Request, view: Any) -> bool:
        if not isinstance(request.user, Program):
            return True
        self._counted: Counted = Counted("api-token", str(request.user.pk))
        return rate_limits.allows(settings.API_TOKEN_RATE, self._counted)

    def wait(self) -> float:
        return rate_limits.wait_s(settings.API_TOKEN_RATE, self._counted)


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the tokens of programs in the API's schema."""

    target_class = TokenAuthentication
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        scopes = "; ".join(f"{scope}: {scope.meaning}" for scope in Scope)
        return {"type": "http", "scheme": "bearer", "description": f"Token of a program. Scopes: {scopes}"}
