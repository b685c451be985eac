"""Every page of the sidebar, and every kind that they link to, is sound: console, network, axe, widths, themes."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.urls import Resolver404, resolve, reverse
from playwright.sync_api import Browser, Page

from ami_headend.console import navigation
from tests.flows.stack import Stack
from tests.pages.browser import SUPERUSER, Faults, signed_in
from tests.pages.looking import look_at

SIDEBAR = [page.url_name for _, pages in navigation.GROUPS for page in pages if page.url_name.startswith("admin:")]


@pytest.fixture(scope="module")
def walker(browser: Browser, stack: Stack) -> Iterator[tuple[Page, Faults]]:
    with signed_in(browser, stack.base_url, SUPERUSER) as (page, faults):
        yield page, faults


@pytest.mark.parametrize("name", SIDEBAR)
def test_page_of_the_sidebar(name: str, walker: tuple[Page, Faults]) -> None:
    page, faults = walker
    found = look_at(page, reverse(name)) + faults.take()
    assert not found, "\n".join(found)


@pytest.mark.timeout(300)
def test_pages_that_they_link_to(walker: tuple[Page, Faults]) -> None:
    """One page for each view that is reached from the sidebar's pages by links in their content, and on from there."""
    page, faults = walker
    seen = set(SIDEBAR)
    ahead = [reverse(name) for name in SIDEBAR]
    found = []
    while ahead:
        page.goto(ahead.pop(0))
        for address in _links(page):
            view = _view(address)
            if view is not None and view not in seen:
                seen.add(view)
                ahead.append(address)
                found += look_at(page, address)
    found += faults.take()
    assert not found, "\n".join(found)


def _links(page: Page) -> list[str]:
    """Addresses that the content links to, without their queries."""
    chosen = "#content a[href]:not([download])"
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
