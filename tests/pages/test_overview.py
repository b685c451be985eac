"""The overview in the browser: it renews itself, keeps what its user does, and says when nobody answers."""

import re

from django.urls import reverse
from playwright.sync_api import Browser, Page, expect

from concentrators.models import Concentrator
from tests.flows.stack import Stack
from tests.pages.browser import SUPERUSER, signed_in
from tests.pages.conftest import Visit


def opened(visit: Visit, role: str = SUPERUSER) -> Page:
    page = visit(role)
    page.goto(reverse("admin:index"))
    page.wait_for_load_state("networkidle")
    return page


def renew(page: Page) -> None:
    """The next renewal at once, as the live part itself asks for it."""
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        page.evaluate("htmx.trigger('#live', 'renew')")


def figure(page: Page, title: str) -> str:
    return page.locator(".console-figure", has_text=title).locator(".console-figure-value").inner_text()


def test_it_renews_itself_and_charts_go_on_living(visit: Visit, stack: Stack) -> None:
    page = opened(visit)
    before = figure(page, "Concentrators posting")
    canvas = page.evaluate("(window.kept = document.querySelector('#chart-load canvas')).width")
    assert canvas > 0
    Concentrator.objects.create(name="just made")
    renew(page)
    posting, active = (int(number) for number in before.split(" of "))
    expect(page.locator(".console-figure", has_text="Concentrators posting")).to_contain_text(
        f"{posting} of {active + 1}"
    )
    assert page.evaluate("window.kept === document.querySelector('#chart-load canvas')")
    assert page.evaluate("Chart.getChart(window.kept).data.labels.length") == 24
    Concentrator.objects.filter(name="just made").delete()


def test_the_focus_stays_where_it_was(visit: Visit) -> None:
    page = opened(visit)
    target = page.locator("#live a.console-link").first
    target.focus()
    address = target.get_attribute("href")
    renew(page)
    expect(page.locator(f'a[href="{address}"]:focus')).to_have_count(1)


def test_a_pause_lasts_until_it_is_ended(visit: Visit) -> None:
    page = opened(visit)
    button = page.locator("#live-pause")
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    standing = page.locator(".console-note p").first.inner_text()
    page.wait_for_timeout(6_000)
    assert page.locator(".console-note p").first.inner_text() == standing
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_it_says_when_the_head_end_does_not_answer(browser: Browser, stack: Stack) -> None:
    with signed_in(browser, stack.base_url, SUPERUSER) as (page, faults):
        page.goto(reverse("admin:index"))
        page.wait_for_load_state("networkidle")
        assert faults.take() == []
        page.route(lambda url: url.endswith("/admin/"), lambda route: route.abort())
        page.evaluate("htmx.trigger('#live', 'renew')")
        expect(page.locator("#live-fault")).to_have_text("The head-end does not answer; trying again.")
        page.unroute_all()
        renew(page)
        expect(page.locator("#live-fault")).to_be_empty()
        assert faults.take() != []  # the browser itself tells of the request that failed


def test_times_are_in_the_zone_of_the_browser(visit: Visit) -> None:
    page = opened(visit)
    page.reload()
    expect(page.locator(".console-note p").first).to_have_text(re.compile(r"Europe/Berlin \(UTC\+0[12]:00\)"))


def test_the_keyboard_reaches_the_menu_of_the_account_and_the_theme(visit: Visit) -> None:
    page = opened(visit)
    page.locator("[role=button]", has_text=SUPERUSER).press("Enter")
    page.get_by_role("button", name="Dark").press("Enter")
    expect(page.locator("html")).to_have_class(re.compile(r"\bdark\b"))


def test_every_role_has_an_overview_of_its_own(visit: Visit) -> None:
    for role in ("operator", "key officer", "administrator", "auditor"):
        page = opened(visit, role)
        expect(page.get_by_role("heading", name="What to do first")).to_be_visible()
        expect(page.locator("#live")).to_contain_text("Health of components")
