"""Django's error pages of DEBUG, with secrets removed wherever they appear."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

_HIDDEN = SafeExceptionReporterFilter.cleansed_substitute
_LEAST = 4  # shorter values would blot out half of the page
_ADDRESSES = ("DATABASE_URL", "OWNER_DATABASE_URL", "REDIS_URL", "EMAIL_URL", "CELERY_BROKER_URL")


class Filter(SafeExceptionReporterFilter):
    """Hides settings and headers by name, including addresses that contain passwords."""

    hidden_settings = re.compile(
        SafeExceptionReporterFilter.hidden_settings.pattern + r"|_URL|_DSN|PIN|COOKIE", re.IGNORECASE
    )


class Reporter(ExceptionReporter):
    """Django's reporter, which also removes every secret of the settings from the finished text, local variables
    included.
    """

    def get_traceback_html(self) -> SafeString:
        return _without_secrets(super().get_traceback_html())

    def get_traceback_text(self) -> SafeString:
        return _without_secrets(super().get_traceback_text())


def _without_secrets(text: str) -> SafeString:
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        for form in {secret, escape(secret), escape(repr(secret)[1:-1])}:
            text = text.replace(form, _HIDDEN)
    return mark_safe(text)  # noqa: S308 - Django's own page, with less in it


def _secrets() -> Iterator[str]:
    """Yield the secrets among the settings, including passwords within addresses."""
    found: list[Any] = [settings.SECRET_KEY, settings.METRICS_TOKEN, getattr(settings, "EMAIL_HOST_PASSWORD", "")]
    found += [one.get("PASSWORD") for one in (*settings.DATABASES.values(), settings.OWNER_DATABASE or {})]
    for name in _ADDRESSES:
        password = urlsplit(str(getattr(settings, name, ""))).password or ""
        found += [password, unquote(password)]
    yield from (secret for secret in found if isinstance(secret, str) and len(secret) >= _LEAST)
