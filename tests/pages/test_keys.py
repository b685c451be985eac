"""Journeys over the pages of the keys: a wave that real (simulated) meters obey, and a rotation to its end."""

import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from ami_headend.signin import roles
from concentrators.commands import rollouts
from concentrators.fleet.selection import Selection
from concentrators.models import RotationWave, WaveState
from concentrators.simulator.concentrator import Options
from concentrators.simulator.factory import Factory
from concentrators.simulator.loads import RunRequest, make_plan
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.registration import register
from concentrators.simulator.run import Run
from concentrators.simulator.spool import Spool
from keyvault.audit.chain import Actor
from keyvault.device_keys import inventory
from keyvault.models import DeviceKey
from tests.flows.stack import Stack, wait_for
from tests.pages.conftest import Visit

pytestmark = pytest.mark.timeout(300)
METERS = 6
SOON_MS = 60_000


@pytest.fixture
def plan(stack: Stack, tmp_path: Path) -> Iterator[Plan]:
    """Meters that send and obey, until the test is over."""
    wish = RunRequest(concentrators=1, meters=METERS, days=1, interval_minutes=[1], endless=True)
    plan, load = make_plan(wish, timezone.now())
    secret = secrets.token_bytes(32)
    spool = Spool(tmp_path)
    options = Options(stack.base_url, batch_frames=2000, commands_every_s=0.4)
    run = Run(plan, Production(plan, load, spool, Factory(plan, secret)), spool, register(plan, secret).tokens, options)
    thread = threading.Thread(target=run.play, args=[lambda _: None])
    thread.start()
    yield plan
    run.stop.set()
    thread.join(60)
    spool.close()


def through(page: Page, number: int) -> None:
    """The live part shows by itself that so many meters are done."""
    expect(page.locator("#wave-state")).to_contain_text(f"{number} of {METERS} meters are done", timeout=SOON_MS)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_key_officer_starts_pauses_and_resumes_a_wave_and_sees_it_end(visit: Visit, stack: Stack, plan: Plan) -> None:
    titles = [plan.system_title(number) for number in range(METERS)]
    page = visit(roles.KEY_OFFICER)
    page.goto(reverse("admin:waves"))
    page.get_by_role("link", name="New wave").click()
    page.get_by_label("Name of the wave").fill("spring")
    page.get_by_label("These system titles").fill("\n".join(title.hex() for title in titles))
    page.get_by_label("Most key commands per hour").fill("120")
    press(page, "Count the meters")
    expect(page.locator("#preview")).to_contain_text(f"{METERS} of")
    press(page, "Start the wave")
    expect(page.locator("#wave-state")).to_contain_text(re.compile("running", re.IGNORECASE))
    wave = RotationWave.objects.get(name="spring")

    stack.enqueue("step_rotation_waves")  # as beat does once a minute
    through(page, 2)
    press(page, "Pause the wave")
    expect(page.locator("#wave-state")).to_contain_text(re.compile("paused", re.IGNORECASE))
    stack.enqueue("step_rotation_waves")
    page.wait_for_timeout(1500)
    assert wave.meters.filter(command=None).count() == METERS - 2

    press(page, "Resume the wave")
    expect(page.locator("#wave-state")).to_contain_text(re.compile("running", re.IGNORECASE))
    for done in (4, 6):
        stack.enqueue("step_rotation_waves")
        through(page, done)
    stack.enqueue("step_rotation_waves")
    expect(page.locator("#wave-state")).to_contain_text(re.compile("finished", re.IGNORECASE), timeout=SOON_MS)
    expect(page.locator("button[name=act]")).to_have_count(0)
    expect(page.locator(".console-table tbody tr")).to_have_count(METERS)
    assert DeviceKey.objects.filter(system_title__in=titles, epoch=2, state="active").count() == METERS

    page.goto(reverse("admin:keys"))
    expect(page.get_by_role("heading", name="Keys by epoch")).to_be_visible()


def test_an_operator_sees_a_wave_and_cannot_move_it(visit: Visit, stack: Stack, plan: Plan) -> None:
    titles = [plan.system_title(number) for number in range(METERS)]
    wave = rollouts.begin("summer", Selection(titles), Actor("test", ""), timezone.now(), 60, 0)
    page = visit(roles.OPERATOR)
    page.goto(reverse("admin:waves"))
    expect(page.get_by_role("link", name="summer")).to_be_visible()
    expect(page.get_by_role("link", name="New wave")).to_have_count(0)
    page.get_by_role("link", name="summer").click()
    expect(page.locator("#wave-state")).to_contain_text(f"0 of {METERS}")
    expect(page.locator("button[name=act]")).to_have_count(0)
    token = next(cookie["value"] for cookie in visit_cookies(page) if cookie["name"] == "csrftoken")
    for act in ("pause", "cancel"):
        answer = page.request.post(page.url, form={"act": act, "csrfmiddlewaretoken": token})
        assert answer.status == 403
    assert page.request.get(reverse("admin:wave-new")).status == 403
    wave.refresh_from_db()
    assert wave.state == WaveState.RUNNING
    rollouts.cancel(wave.pk, Actor("test", ""), timezone.now())


def visit_cookies(page: Page) -> list[dict[str, str]]:
    # A page of the console whose user may press nothing sets no token: the sign-in page does.
    page.request.get("/admin/password_change/")
    return page.context.cookies()  # type: ignore[return-value]


def test_a_rotation_of_the_master_key_is_watched_to_its_end(visit: Visit, stack: Stack) -> None:
    officer = visit(roles.KEY_OFFICER)
    officer.goto(reverse("admin:master-key"))
    officer.get_by_text("Rotate the master key").click()
    press(officer, "Make a new version and rewrap")
    expect(officer.get_by_text("Version 2 is active")).to_be_visible()
    rotation = officer.locator("#rotation")
    expect(rotation).to_contain_text(re.compile("finished", re.IGNORECASE), timeout=SOON_MS)
    expect(rotation).to_contain_text("100.0 %")
    destroy = officer.get_by_role("link", name="Destroy")
    expect(destroy).to_be_visible(timeout=SOON_MS)
    destroy.click()
    officer.get_by_label("Reason").fill("rotated in spring")
    press(officer, "Request approval")
    expect(officer.get_by_text("waits for another person")).to_be_visible()

    administrator = visit(roles.ADMINISTRATOR)
    administrator.goto(reverse("admin:approvals"))
    expect(administrator.get_by_text("rotated in spring")).to_be_visible()
    press(administrator, "Approve")
    expect(administrator.get_by_text("Approved: destroy version 1")).to_be_visible()

    officer.reload()
    officer.get_by_label("Enter its number to confirm").fill("1")
    press(officer, "Destroy version 1")
    expect(officer.get_by_text("Version 1 is destroyed")).to_be_visible()
    officer.get_by_role("link", name="Back to the master key").click()
    expect(officer.get_by_role("row").filter(has_text=re.compile("destroyed", re.IGNORECASE))).to_have_count(1)
    assert [version.state for version in inventory.versions([])] == ["destroyed", "active"]
    wait_for("nothing is under version 1", lambda: not DeviceKey.objects.filter(master_key_version=1).exists())

    auditor = visit(roles.AUDITOR)
    auditor.goto(reverse("admin:audit"))
    auditor.get_by_role("button", name="Verify now").click()
    expect(auditor.get_by_text("none changed, put in or taken out between them")).to_be_visible()
    with auditor.expect_download() as download:
        auditor.get_by_role("link", name="JSON Lines").click()
    assert '"act":"master_key.destroy"' in Path(download.value.path()).read_text()
