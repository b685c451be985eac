"""One stack with simulated meters and one browser for all tests of pages; without a browser they are left out."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.conf import settings
from django.db import connections
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pytest_django import DjangoDbBlocker

from meters.models import Meter, Place
from meters.registry import lifecycle
from tests.flows.stack import Stack, with_own_master_key
from tests.pages.browser import FLAGS, chromium, signed_in

Visit = Callable[..., Page]
_NO_BROWSER = "page tests are left out: there is no chromium on the PATH (Debian, Ubuntu: apt install chromium)"


@pytest.fixture(scope="package")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Web and worker over two days of a few simulated meters, attackers among them.

    Its database and its master key, which a test may rotate, are this process's for as long.
    """
    if chromium() is None:
        pytest.skip(_NO_BROWSER)
    folder = tmp_path_factory.mktemp("pages")
    environ = {
        "SECRET_KEY": settings.SECRET_KEY,  # sessions that tests make are the stack's
        "MASTER_KEY_FILE": str(folder / "master.keys"),
        "MASTER_KEY_DESTROY_AFTER_DAYS": "0",
        "REQUIRE_APPROVAL": "1",
        "COMMAND_RETRY_S": "1",
    }
    with django_db_blocker.unblock(), with_own_master_key(folder, environ) as live:
        simulate = ("--meters", "12", "--days", "2", "--misbehave", "all=0.01", "--seed", "4")
        done = live.manage("simulate", "--url", live.base_url, *simulate)
        assert done.returncode == 0, done.stdout + done.stderr
        meter = Meter.objects.filter(serial_number__contains="household").order_by("pk")[0]
        place = Place.objects.create(name="MP 1", address="Mill Lane 7", customer_reference="C-77")
        lifecycle.install(meter, place, meter.commissioned_at)
        yield live


@pytest.fixture(scope="package")
def browser(stack: Stack) -> Iterator[Browser]:
    """The browser, over the stack. Django's database functions may be called beside it: it runs a loop of its own."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=30_000)  # on a machine that does much else; the usual 5 s are for a quiet one
        engine = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield engine
        engine.close()
        connections.close_all()  # here, beside the browser's loop, Django keeps connections of their own


@pytest.fixture
def visit(browser: Browser, stack: Stack) -> Iterator[Visit]:
    """``visit(role, dark=..., phone=...)``: a page of that person. At the end nothing may have gone wrong on it."""
    with ExitStack() as contexts:
        watched = []

        def open_page(role: str, *, dark: bool = False, phone: bool = False) -> Page:
            page, faults = contexts.enter_context(signed_in(browser, stack.base_url, role, dark=dark, phone=phone))
            watched.append(faults)
            return page

        yield open_page
        found = [fault for faults in watched for fault in faults.take()]
    assert found == []
