"""The viewer's time zone on the console; the browser names it in a cookie (static/console/zone.js)."""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

COOKIE = "zone"
_NAME_MAX = 64


def zone_of(name: str) -> "ViewerZone | None":
    """Return a zone of the IANA database, such as ``Europe/Berlin``; None for any other name."""
    try:
        return ViewerZone(name) if 0 < len(name) <= _NAME_MAX else None
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return None


class ViewerZone(ZoneInfo):
    """A zone to show times in. A time of year 1 or 9999 that the zone cannot represent keeps its hour in UTC.

    No door accepts such times any more, but old ones in the database must not break a page.
    """

    def fromutc(self, dt: datetime) -> datetime:
        try:
            return super().fromutc(dt)
        except OverflowError:
            return dt


class ViewerZoneMiddleware:
    """Activates the viewer's zone for addresses of the admin site; UTC elsewhere, and if the zone is unknown."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = None
        if request.path.startswith(reverse("admin:index")):
            zone = zone_of(unquote(request.COOKIES.get(COOKIE, "")))
        with timezone.override(zone):
            return self.get_response(request)
