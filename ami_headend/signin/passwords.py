"""Whether an account may sign in with its password: all may, or only the break-glass account (PASSWORD_SIGN_IN)."""

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def are_taken(name: str) -> bool:
    """Whether the password of an account of this name is taken."""
    return bool(settings.PASSWORD_SIGN_IN) or (bool(name) and name == settings.BREAK_GLASS_ACCOUNT)


class OnlyWherePasswordsAreTaken:
    """Refuses passwords of all other accounts before anybody looks at them. It knows no account itself."""

    def authenticate(self, request: HttpRequest | None, username: str | None = None, **credentials: Any) -> None:
        if not are_taken(username or ""):
            raise PermissionDenied("passwords are turned off (PASSWORD_SIGN_IN)")
