"""Django's pages of errors, which DEBUG turns on: without what opens something, wherever on the page it stands."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

_HIDDEN = SafeExceptionReporterFilter.cleansed_substitute
_LEAST = 4  # shorter ones would blot out half of the page
_ADDRESSES = ("DATABASE_URL", "OWNER_DATABASE_URL", "REDIS_URL", "EMAIL_URL", "CELERY_BROKER_URL")


class Filter(SafeExceptionReporterFilter):
    """Settings and headers by their names: those that hold passwords within an address, too."""

    hidden_settings = re.compile(
        SafeExceptionReporterFilter.hidden_settings.pattern + r"|_URL|_DSN|PIN|COOKIE", re.IGNORECASE
    )


class Reporter(ExceptionReporter):
    """As Django's, with every secret of the settings taken out of the finished text: of local variables, too."""

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
    """The secrets among the settings, as they stand there and within addresses."""
    found: list[Any] = [settings.SECRET_KEY, settings.METRICS_TOKEN, getattr(settings, "EMAIL_HOST_PASSWORD", "")]
    found += [one.get("PASSWORD") for one in (*settings.DATABASES.values(), settings.OWNER_DATABASE or {})]
    for name in _ADDRESSES:
        password = urlsplit(str(getattr(settings, name, ""))).password or ""
        found += [password, unquote(password)]
    yield from (secret for secret in found if isinstance(secret, str) and len(secret) >= _LEAST)
