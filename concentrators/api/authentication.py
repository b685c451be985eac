"""Authentication of concentrators by bearer token. ``concentrators.fleet.tokens`` decides whether one is valid."""

from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication, exceptions, permissions
from rest_framework.request import Request

from ami_headend.core import bearer
from ami_headend.web import misdirected
from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken


class BearerTokenAuthentication(authentication.BaseAuthentication):
    """``Authorization: Bearer TOKEN`` (RFC 6750) of a concentrator; the same answer for every invalid one of a cell."""

    def authenticate(self, request: Request) -> tuple[Concentrator, ConcentratorToken] | None:
        token = bearer.given(request.headers)
        if token is None:
            return None
        if token.startswith(bearer.PROGRAM):
            raise exceptions.AuthenticationFailed("This address takes the token of a concentrator, not of a program.")
        row = tokens.find(token, timezone.now())
        if row is None:
            misdirected.check(token)
            raise exceptions.AuthenticationFailed("The bearer token is unknown, expired or revoked.")
        return row.concentrator, row

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="ami-headend"'


class BearerTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the bearer token in the API's schema."""

    target_class = BearerTokenAuthentication
    name = "concentratorToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        form = "dcu_, in a cell its name and _, and 43 characters; 421: the token is of another cell"
        return {"type": "http", "scheme": "bearer", "description": f"Token of a concentrator: {form}"}


class IsConcentrator(permissions.BasePermission):
    """Only a concentrator, by its token; a person's session is not accepted."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.user, Concentrator)


def concentrator_id(request: Request) -> int:
    """Return the id of the concentrator of a request that IsConcentrator admitted."""
    return int(request.user.pk or 0)
