"""What people come to the console for, by clicking: a forged frame, a missing day, a token."""

import csv
import re
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import Download, Page, expect

from ami_headend.signin import roles
from concentrators.models import Acknowledgement, ConcentratorToken, IntegrityFailure, Uplink
from keyvault.cose.structures import encode_sequence
from meters.models import Meter
from tests.concentrators.fleet import HALF_HOUR_S, START, START_S, commission
from tests.factories import ConcentratorFactory
from tests.flows.site import CBOR_SEQUENCE, found
from tests.flows.stack import TRUSTED, Stack, wait_for
from tests.pages.browser import ZONE
from tests.pages.conftest import Visit

LIVE_MS = 20_000


def test_a_tampered_frame_appears_is_opened_understood_and_acknowledged(stack: Stack, visit: Visit) -> None:
    site = found(stack, 1)
    page: Page = visit(roles.OPERATOR)
    page.goto("/admin/")
    page.get_by_role("link", name="Integrity failures").first.click()
    row = page.get_by_role("row").filter(has_text=site.devices[0].meter.serial_number)
    expect(row).to_have_count(0)
    frame = site.devices[0].frame(0)
    site.posted([frame[:-1] + bytes((frame[-1] ^ 1,))])
    expect(row).to_have_count(1, timeout=LIVE_MS)  # by itself: nothing was reloaded
    row.get_by_role("link", name="invalid tag").click()
    for told in ("The authentication tag is wrong", "Likely causes", "Key epoch 1", "Authentication tag: 8 octets"):
        expect(page.get_by_text(told).first).to_be_visible()
    page.get_by_label("Note").fill("a test of ours on site")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("1 failure acknowledged.")).to_be_visible()
    expect(page.get_by_text("a test of ours on site")).to_be_visible()
    failure = IntegrityFailure.objects.get(meter=site.devices[0].meter)
    assert failure.acknowledgement == Acknowledgement.objects.get(note="a test of ours on site")


def test_what_is_chosen_in_the_live_list_is_not_taken_away(stack: Stack, visit: Visit) -> None:
    site = found(stack, 1)
    site.posted([b"one", b"two", b"three"])
    refused = IntegrityFailure.objects.filter(concentrator=site.concentrator)
    wait_for("the frames are refused", lambda: refused.count() == 3)
    page: Page = visit(roles.OPERATOR)
    page.goto(f"/admin/failures/?concentrator={site.concentrator.name}")
    boxes = page.get_by_role("checkbox", name="choose malformed")
    boxes.nth(0).check()
    boxes.nth(2).check()
    page.evaluate("htmx.trigger('#live', 'renew')")
    expect(boxes.nth(2)).to_be_checked()
    page.get_by_label("Note").fill("noise")
    page.get_by_role("button", name="Acknowledge the chosen ones").click()
    expect(page.get_by_text("2 failures acknowledged.")).to_be_visible()
    assert refused.filter(is_open=True).count() == 1


def rows_of(download: Download, folder: Path) -> list[dict[str, str]]:
    path = folder / download.suggested_filename
    download.save_as(path)
    with path.open() as lines:
        return list(csv.DictReader(lines))


def test_a_missing_day_is_found_and_exported(stack: Stack, visit: Visit, tmp_path: Path) -> None:
    site = found(stack, 2)
    whole, lacking = site.devices
    zone = ZoneInfo(ZONE)
    day = (START - timedelta(days=1)).astimezone(zone).date()  # a whole day of the viewer's, in the last week
    first = datetime(day.year, day.month, day.day, tzinfo=zone)
    end = first + timedelta(days=1)  # as clocks show it
    numbers = range(-144, 40)
    missing = {n for n in numbers if first.timestamp() <= START_S + n * HALF_HOUR_S < end.timestamp()}
    Meter.objects.filter(pk__in=[device.meter.pk for device in site.devices]).update(
        commissioned_at=START - timedelta(seconds=144 * HALF_HOUR_S)
    )
    uplink = site.posted([*(whole.frame(n) for n in numbers), *(lacking.frame(n) for n in numbers if n not in missing)])
    wait_for("the uplink is verified", lambda: bool(site.status(uplink)["verified"]))
    assert site.status(uplink)["rejected"] == 0

    page: Page = visit(roles.OPERATOR)
    page.goto("/admin/")
    page.get_by_role("link", name=re.compile("Concentrators$")).first.click()
    page.get_by_role("link", name=site.concentrator.name).click()
    page.get_by_role("link", name=f"{day:%a} {day.day} {day:%b}", exact=True).click()
    row = page.locator("#missing").get_by_role("row").filter(has_text=lacking.meter.serial_number)
    expect(row).to_contain_text(str(len(missing)))
    expect(page.locator("#missing").get_by_role("row").filter(has_text=whole.meter.serial_number)).to_have_count(0)
    row.get_by_role("link").click()
    expect(page.get_by_text(f"{len(missing)} of {len(missing)} expected intervals are missing.")).to_be_visible()
    with page.expect_download() as gaps:
        page.get_by_role("link", name="Export them as CSV").click()
    [gap] = rows_of(gaps.value, tmp_path)
    assert (gap["system_title"], gap["intervals"]) == (lacking.title.hex(), str(len(missing)))
    assert datetime.fromisoformat(gap["from"]) == first
    page.get_by_role("link", name="Week").click()
    with page.expect_download() as readings:
        page.get_by_role("link", name="CSV", exact=True).click()
    times = {row["captured_at"] for row in rows_of(readings.value, tmp_path)}
    assert times
    assert not [at for at in times if first <= datetime.fromisoformat(at) < end]
    page.go_back()
    page.get_by_role("button", name="Order them from the meter").click()
    expect(page.get_by_text("1 command queued: resend")).to_be_visible()


def test_a_token_is_made_used_revoked_and_refused(stack: Stack, visit: Visit) -> None:
    concentrator = ConcentratorFactory.create()
    [device] = commission(1, concentrator)
    page: Page = visit(roles.ADMINISTRATOR)
    page.goto("/admin/concentrators/")
    page.get_by_role("link", name=concentrator.name, exact=True).click()
    page.get_by_label("Label").fill("on the pole")
    page.get_by_role("button", name="Make a token").click()
    token = page.locator("#secret").inner_text()
    page.get_by_role("link", name="Done").click()
    expect(page.locator("#secret")).to_have_count(0)
    assert token not in page.content()

    def post(number: int) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": CBOR_SEQUENCE}
        body = encode_sequence([device.frame(number)])
        return httpx.post(f"{stack.base_url}/api/v1/uplinks", content=body, headers=headers, timeout=30, verify=TRUSTED)

    assert post(0).status_code == 202
    wait_for("the frame is accepted", lambda: Uplink.objects.filter(concentrator=concentrator, accepted=1).exists())
    page.reload()
    row = page.get_by_role("row").filter(has_text="on the pole")
    expect(row).to_contain_text("valid")
    expect(row).not_to_contain_text("never")
    row.get_by_role("button", name="revoke").click()
    expect(page.get_by_text("It is the only valid token")).to_be_visible()
    assert post(0).status_code == 202
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_text("is refused from now on")).to_be_visible()
    expect(row).to_contain_text("revoked")
    assert post(1).status_code == 401
    assert ConcentratorToken.objects.get(concentrator=concentrator).revoked_at is not None


@pytest.mark.parametrize("act", ["rotate", "revoke"])
def test_an_operator_sees_tokens_and_has_no_way_to_change_them(stack: Stack, visit: Visit, act: str) -> None:
    site = found(stack, 1)
    page: Page = visit(roles.OPERATOR)
    page.goto(f"/admin/concentrators/{site.concentrator.pk}/")
    expect(page.get_by_role("heading", name="Tokens")).to_be_visible()
    expect(page.get_by_role("button", name=act)).to_have_count(0)
