"""Debian's Chromium on a running stack: signed-in pages that notice everything that goes wrong on them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, ViewportSize

SUPERUSER = "superuser"
DESKTOP, PHONE = ViewportSize(width=1400, height=900), ViewportSize(width=390, height=844)
ZONE = "Europe/Berlin"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "screenshots"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The browser's program, where this machine has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Faults:
    """What went wrong on the pages of a context: errors in the console, failed requests, requests to other hosts."""

    base_url: str
    found: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", lambda error: self.found.append(f"error in a script: {error.error}"))
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)

    def take(self) -> list[str]:
        """What was found since the last look."""
        found, self.found = self.found, []
        return found

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws") and not request.url.startswith(self.base_url):
            self.found.append(f"request to another host: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page was left while it still asked
            self.found.append(f"request failed: {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.found.append(f"answer {response.status}: {response.url}")


def user_with(role: str) -> User:
    """The account of a role (a group of that name, or SUPERUSER); made at first use, with the role as its password."""
    user, is_new = User.objects.get_or_create(
        username=role.replace(" ", "-"), defaults={"is_staff": True, "is_superuser": role == SUPERUSER}
    )
    if is_new:
        user.set_password(role)
        user.save()
        if role != SUPERUSER:
            user.groups.add(Group.objects.get(name=role))
    return user


def session_cookie(user: User) -> str:
    """A session that the user might have signed in to."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


@contextmanager
def signed_in(
    browser: Browser, base_url: str, role: str, *, dark: bool = False, phone: bool = False
) -> Iterator[tuple[Page, Faults]]:
    """A page of a person of the role, in a zone with daylight saving, and what goes wrong on it."""
    context = browser.new_context(
        base_url=base_url,
        viewport=PHONE if phone else DESKTOP,
        color_scheme="dark" if dark else "light",
        timezone_id=ZONE,
        locale="en-GB",
    )
    cookie = {"name": settings.SESSION_COOKIE_NAME, "value": session_cookie(user_with(role)), "url": base_url}
    context.add_cookies([cookie])  # type: ignore[list-item]
    faults = Faults(base_url)
    faults.watch(context)
    try:
        yield context.new_page(), faults
    finally:
        context.close()
