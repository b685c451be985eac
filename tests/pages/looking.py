"""A look at one page: on a desk and on a phone, light and dark. What is wrong comes back in words."""

import re
from collections.abc import Iterator

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.pages.browser import DESKTOP, PHONE, SCREENSHOTS

_AXE = Axe()
_GRAVE = ("serious", "critical")


def look_at(page: Page, address: str) -> list[str]:
    """What is wrong with a page, in both themes and at both widths; screenshots are left in screenshots/."""
    name = re.sub(r"[^a-z0-9]+", "-", address.removeprefix("/admin").lower()).strip("-") or "overview"
    page.set_viewport_size(DESKTOP)
    page.goto(address)
    page.wait_for_load_state("networkidle")
    found = []
    for theme in ("light", "dark"):
        page.evaluate("theme => { Alpine.$data(document.documentElement).adminTheme = theme }", theme)
        page.wait_for_function("theme => document.documentElement.classList.contains(theme)", arg=theme)
        for width, size in (("desk", DESKTOP), ("phone", PHONE)):
            page.set_viewport_size(size)
            found += [f"{theme}, {width}: {fault}" for fault in _faults(page, theme, width)]
            page.screenshot(path=SCREENSHOTS / f"{name}.{width}.{theme}.png", full_page=True)
    return [f"{address} {fault}" for fault in found]


def _faults(page: Page, theme: str, width: str) -> Iterator[str]:
    wide, room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if wide > room:
        yield f"scrolls sideways: {wide} px where {room} are"
    if (theme, width) == ("dark", "desk"):
        rules = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    elif theme == "light":
        rules = {}
    else:
        return  # what depends on the theme and what on the width was looked at
    for violation in _AXE.run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]:
        if violation["impact"] in _GRAVE:
            places = "; ".join(
                f"{' '.join(map(str, node['target']))} {node['html'][:150]}" for node in violation["nodes"][:3]
            )
            yield f"{violation['impact']} {violation['id']} ({len(violation['nodes'])}): {places}"
