"""Every page of the sidebar, and every kind that they link to, is sound: console, network, axe, widths, themes.

`make test` asks axe at every second page, in a theme and at a width that change from page to page; `make soak` at every
page, in each of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from django.urls import Resolver404, resolve, reverse
from playwright.sync_api import Browser, Page

from ami_headend.console import navigation
from tests.flows.stack import Stack
from tests.pages.browser import PHONE, SUPERUSER, Faults, signed_in
from tests.pages.looking import LOOKS, look_at, sample_of_them

SIDEBAR = [page.url_name for _, pages in navigation.GROUPS for page in pages if page.url_name.startswith("admin:")]


@dataclass
class Walk:
    """A page, what went wrong on it, and the addresses that it has come by, one for each view."""

    page: Page
    faults: Faults
    in_every_look: bool = False
    met: dict[str, str] = field(default_factory=dict)

    def look_at(self, view: str, address: str) -> None:
        """Fails with everything that is wrong with one page."""
        found = look_at(self.page, address, LOOKS if self.in_every_look else sample_of_them(view))
        for link in _links(self.page):
            met = _view(link)
            if met is not None:
                self.met.setdefault(met, link)
        found += self.faults.take()
        assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def walk(browser: Browser, stack: Stack) -> Iterator[Walk]:
    with signed_in(browser, stack.base_url, SUPERUSER) as (page, faults):
        yield Walk(page, faults)


@pytest.mark.parametrize("name", SIDEBAR)
def test_page_of_the_sidebar(name: str, walk: Walk) -> None:
    walk.look_at(name, reverse(name))


@pytest.mark.timeout(900)
def test_pages_that_they_link_to(walk: Walk, subtests: pytest.Subtests) -> None:
    _go_on(walk, subtests)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_page_in_every_look(browser: Browser, stack: Stack, subtests: pytest.Subtests) -> None:
    with signed_in(browser, stack.base_url, SUPERUSER) as (page, faults):
        walk = Walk(page, faults, in_every_look=True)
        for name in SIDEBAR:
            with subtests.test(view=name):
                walk.look_at(name, reverse(name))
        _go_on(walk, subtests)


def _go_on(walk: Walk, subtests: pytest.Subtests) -> None:
    """One page for each view that the content of the sidebar's pages links to, and on from there."""
    seen = set(SIDEBAR)
    while ahead := {view: address for view, address in walk.met.items() if view not in seen}:
        for view, address in ahead.items():
            seen.add(view)
            if _is_page(walk.page, address):
                with subtests.test(view=view):
                    walk.look_at(view, address)


def _links(page: Page) -> list[str]:
    """Addresses that the content links to, without their queries."""
    chosen = "#content a[href]:not([download], .console-export a)"
    links: list[str] = page.evaluate("s => [...document.querySelectorAll(s)].map(link => link.href)", chosen)
    return [urlsplit(link).path for link in links if link.startswith(page.url.partition("/admin/")[0])]


def _is_page(page: Page, address: str) -> bool:
    """Whether an address answers with a page, and not with a file to download."""
    return page.context.request.head(address).headers.get("content-type", "").startswith("text/html")


def _view(address: str) -> str | None:
    """The name of the page of the console that an address leads to."""
    try:
        name = resolve(address).view_name
    except Resolver404:
        return None
    return name if name.startswith("admin:") else None


def test_the_search_of_every_page_opens_on_a_phone_too(walk: Walk) -> None:
    """A button in the header opens the palette of Ctrl + K."""
    walk.page.set_viewport_size(PHONE)
    walk.page.goto("/admin/meters/")
    walk.page.get_by_role("button", name="Search for meters").click()
    walk.page.locator("#search-input-command").wait_for(state="visible")
