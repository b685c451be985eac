"""Times of the console in the viewer's zone: the browser names it in a cookie (static/console/zone.js)."""

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
    """The zone of that name in the IANA database, such as ``Europe/Berlin``; None for anything else."""
    try:
        return ViewerZone(name) if 0 < len(name) <= _NAME_MAX else None
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError is one
        return None


class ViewerZone(ZoneInfo):
    """A zone to show times in: one that is no date there, of year 1 or 9999, stays at the hour that it has in UTC.

    Doors take no such time any more; those that stand in the database from before are to fail no page.
    """

    def fromutc(self, dt: datetime) -> datetime:
        try:
            return super().fromutc(dt)
        except OverflowError:
            return dt


class ViewerZoneMiddleware:
    """Activates the viewer's zone under the admin site's addresses; UTC everywhere else, and where it is not known."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = None
        if request.path.startswith(reverse("admin:index")):
            zone = zone_of(unquote(request.COOKIES.get(COOKIE, "")))
        with timezone.override(zone):
            return self.get_response(request)
