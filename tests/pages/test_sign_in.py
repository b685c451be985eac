"""Journeys through the sign-in: the second factor set up and used, and a lock-out."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from ami_headend.signin import roles
from tests.flows.stack import Stack
from tests.pages.browser import DESKTOP, Faults, user_with
from tests.pages.looking import look_at
from tests.signin.people import code

SET_UP, SECOND = "/sign-in/set-up/", "/sign-in/second-factor/"


@contextmanager
def stranger(browser: Browser, stack: Stack) -> Iterator[tuple[Page, Faults]]:
    context = browser.new_context(base_url=stack.base_url, viewport=DESKTOP)
    faults = Faults(stack.base_url)
    faults.watch(context)
    try:
        yield context.new_page(), faults
    finally:
        context.close()


def give_password(page: Page, name: str, password: str) -> None:
    page.goto("/admin/login/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.timeout(300)
def test_a_key_officer_sets_up_the_second_factor_and_signs_in_with_it(browser: Browser, stack: Stack) -> None:
    name = user_with(roles.KEY_OFFICER).get_username()
    with stranger(browser, stack) as (page, faults):
        found = look_at(page, "/admin/login/")
        give_password(page, name, roles.KEY_OFFICER)
        expect(page).to_have_url(f"{stack.base_url}/admin/")
        found += look_at(page, "/admin/account/sign-in/")
        page.get_by_role("link", name="Set up").click()
        found += look_at(page, page.url.removeprefix(stack.base_url))
        page.get_by_label("Password of your account").fill(roles.KEY_OFFICER)
        page.get_by_role("button", name="Confirm").click()
        page.get_by_text("It cannot be scanned?").click()
        secret = page.locator("#secret").inner_text()
        expect(page.locator("#qr svg")).to_be_visible()
        page.get_by_label("Code that the app shows now").fill(code(secret))
        page.get_by_role("button", name="Set up").click()
        expect(page.locator("#recovery-codes li")).to_have_count(10)
        codes = page.locator("#recovery-codes li").all_inner_texts()
        page.get_by_role("link", name="I have saved them").click()
        expect(page.get_by_text("10 recovery codes are left")).to_be_visible()
        assert faults.take() == []

    with stranger(browser, stack) as (page, faults):
        give_password(page, name, roles.KEY_OFFICER)
        expect(page).to_have_url(f"{stack.base_url}{SECOND}")
        page.get_by_label("Code").fill(code(secret, 1))
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{stack.base_url}/admin/")

    with stranger(browser, stack) as (page, faults):
        give_password(page, name, roles.KEY_OFFICER)
        found += look_at(page, SECOND)
        page.get_by_label("Code").fill(codes[0])
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("A recovery code was used: 9 are left")).to_be_visible()
        found += look_at(page, "/admin/account/sign-in/")
        page.get_by_label("Code").fill(codes[1])
        page.get_by_role("button", name="Turn off").click()
        expect(page.get_by_text("The second factor was removed")).to_be_visible()
        found += look_at(page, SET_UP)
        assert found + faults.take() == []


def test_somebody_who_guesses_is_locked_out(browser: Browser, stack: Stack) -> None:
    name = user_with(roles.AUDITOR).get_username()
    with stranger(browser, stack) as (page, _):
        for _ in range(5):
            give_password(page, name, "wrong")
        expect(page.get_by_role("alert")).to_contain_text("Too many failed attempts")
        give_password(page, name, roles.AUDITOR)
        expect(page.get_by_role("alert")).to_contain_text("Wait 15 minutes")
