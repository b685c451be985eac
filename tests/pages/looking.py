"""A look at one page: on a desk and on a phone, light and dark. What is wrong comes back in words."""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from django.urls import reverse
from playwright.sync_api import Page, ViewportSize

from tests.pages.browser import DESKTOP, PHONE, SCREENSHOTS

_AXE = Axe()
_GRAVE = ("serious", "critical")
_WIDTHS = {"desk": DESKTOP, "phone": PHONE}
# Rows of a table are alike, and what axe takes grows with them: a list of a hundred cost five seconds.
_FEW_ROWS = """document.querySelectorAll("table").forEach(
    table => [...table.rows].slice(15).forEach(row => row.remove()))"""
_SIDEBAR = "#nav-sidebar"  # the same on every page: it is looked at on the overview


class Look(NamedTuple):
    """A theme, a width, and the rules of axe that are asked; none: all of them."""

    theme: str
    width: str
    rules: tuple[str, ...] = ()


# The others ask for what depends on theme and width.
LOOKS = (
    Look("light", "desk"),
    Look("dark", "desk", ("color-contrast",)),
    Look("light", "phone", ("color-contrast", "scrollable-region-focusable")),
)


def sample_of_them(view: str) -> list[Look]:
    """One of the looks with all rules, for every second view; always the same for a view."""
    number, is_left_out = divmod(zlib.crc32(view.encode()) % (2 * len(LOOKS)), 2)
    return [] if is_left_out else [LOOKS[number]._replace(rules=())]


def look_at(page: Page, address: str, looks: Sequence[Look] = LOOKS) -> list[str]:
    """What is wrong with a page, in both themes and at both widths, or in the looks that are named.

    Whether it fits is asked at both widths in any case. A look that finds something leaves a screenshot in
    screenshots/; with SCREENSHOTS=1 each look does.
    """
    name = re.sub(r"[^a-z0-9]+", "-", address.removeprefix("/admin").lower()).strip("-") or "overview"
    page.set_viewport_size(DESKTOP)
    page.goto(address)
    page.evaluate("document.fonts.ready")
    found = [f"{address} {width}: {fault}" for width, size in _WIDTHS.items() for fault in _too_wide(page, size)]
    are_kept = bool(found or os.environ.get("SCREENSHOTS"))
    if not are_kept:
        page.evaluate(_FEW_ROWS)
    if looks:
        page.evaluate(_AXE.axe_script)
    for theme, width, rules in looks:
        page.evaluate("theme => { Alpine.$data(document.documentElement).adminTheme = theme }", theme)
        page.wait_for_function("theme => document.documentElement.classList.contains(theme)", arg=theme)
        page.set_viewport_size(_WIDTHS[width])
        page.evaluate("Promise.all(document.getAnimations().map(animation => animation.finished))")  # fading colours
        faults = [f"{address} {theme}, {width}: {fault}" for fault in _faults(page, rules)]
        if faults or are_kept:
            page.screenshot(path=SCREENSHOTS / f"{name}.{width}.{theme}.png", full_page=True)
        found += faults
    return found


def _too_wide(page: Page, size: ViewportSize) -> Iterator[str]:
    page.set_viewport_size(size)
    wide, room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if wide > room:
        yield f"scrolls sideways: {wide} px where {room} are"


def _faults(page: Page, rules: Sequence[str]) -> Iterator[str]:
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    # Style sheets are read anew for rules alone that are off.
    options = {"resultTypes": ["violations"], "preload": False, **only}
    is_overview = urlsplit(page.url).path == reverse("admin:index")
    where = {"include": [["html"]], "exclude": [] if is_overview else [[_SIDEBAR]]}
    call = "([where, options]) => axe.run(where, options).then(found => found.violations)"
    for violation in page.evaluate(call, [where, options]):
        if violation["impact"] in _GRAVE:
            nodes = violation["nodes"]
            places = "; ".join(f"{' '.join(map(str, node['target']))} {node['html'][:150]}" for node in nodes[:3])
            yield f"{violation['impact']} {violation['id']} ({len(nodes)}): {places}"
