"""The command by which push profiles are checked, registered and listed."""

import json
import secrets
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from concentrators.ingest import reverification_queue
from concentrators.models import Concentrator, Uplink
from keyvault.audit import chain
from keyvault.models import AuditRecord
from meters.models import PushProfile
from meters.readings import push_profiles
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.fleet import NOW, judged, outcome
from tests.dlms_frames import SYNTHETIC
from tests.meters.push.profiles import BY_NAME

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("545354ae6af2a9a4")
PLAIN = bytes.fromhex(SYNTHETIC["positional"]["plain"])


def run(*args: str) -> str:
    out = StringIO()
    call_command("push_profile", *args, stdout=out)
    return out.getvalue()


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    path = tmp_path / "definition.json"
    path.write_text(json.dumps(BY_NAME["positional"]))
    return path


def dated(apdu: bytes) -> bytes:
    """A notification of now."""
    local = NOW.year.to_bytes(2, "big") + bytes((NOW.month, NOW.day, NOW.isoweekday(), NOW.hour, 0, 0, 0xFF, 0, 0, 0))
    return apdu[:6] + local + apdu[18:]


def test_from_one_captured_frame_to_readings(concentrator: Concentrator, definition: Path) -> None:
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    frames = [device.frame(dated(PLAIN), counter) for counter in range(3)]
    assert judged(concentrator, frames[:1]) == {"unknown_profile": 1}
    told = run("check", frames[0].hex())
    assert "at 1: 10331445" in told
    assert told.startswith("form ")
    assert "1-0:1.8.0  10331445 x 10^0 Wh" in run("check", frames[0].hex(), "--definition", str(definition))
    assert not PushProfile.objects.exists()
    assert "Registered of a test version 1" in run(
        "add", frames[0].hex(), "--definition", str(definition), "--name", "of a test"
    )
    while reverification_queue.work():
        pass
    assert outcome(Uplink.objects.get()) == {"accepted": 1}
    assert judged(concentrator, frames[1:]) == {"accepted": 2}
    assert "of a test version 1  active  meters 545354" in run("list")
    assert "of a test version 1  reads its sample" in run("verify")
    profile = PushProfile.objects.get()
    kept = push_profiles.check(profile.definition, bytes(profile.sample), TITLE).values
    assert {one.raw for one in kept} == {0}  # what the household used is not kept with the profile
    opened = AuditRecord.objects.filter(act="push_profile.open")
    assert {one.subject["title"] for one in opened} == {TITLE.hex()}
    assert chain.verify().number == opened.count() + 1 == 4


def test_a_retired_profile_reads_no_more(concentrator: Concentrator, definition: Path) -> None:
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    wish = ("add", PLAIN.hex(), "--definition", str(definition), "--title", TITLE.hex(), "--name", "one")
    run(*wish)
    run(*wish, "--for", TITLE.hex())
    assert judged(concentrator, [device.frame(dated(PLAIN), 1)]) == {"accepted": 1}
    assert run("retire", "--name", "one", "--of-version", "2") == "Retired one version 2.\n"
    assert judged(concentrator, [device.frame(dated(PLAIN), 2)]) == {"accepted": 1}  # by the manufacturer's
    assert run("retire", "--name", "one") == "Retired one version 1.\n"
    assert judged(concentrator, [device.frame(dated(PLAIN), 3)]) == {"unknown_profile": 1}
    assert [one.subject for one in AuditRecord.objects.filter(act="push_profile.retire").order_by("number")] == [
        {"profiles": ["one version 2"]},
        {"profiles": ["one version 1"]},
    ]
    for args, why in (
        (("retire", "--name", "one"), "no profile 'one' is in use"),
        (("retire", "--name", "one", "--of-version", "9"), "no profile version 9 of 'one'"),
        (("retire",), "Name the profile"),
    ):
        with pytest.raises(CommandError, match=why):
            run(*args)
    assert run("verify") == ""


def test_a_profile_that_no_longer_reads_its_sample_is_told(definition: Path) -> None:
    run("add", PLAIN.hex(), "--definition", str(definition), "--title", TITLE.hex(), "--name", "one")
    PushProfile.objects.update(definition={**BY_NAME["positional"], "columns": []})
    with pytest.raises(CommandError, match="1 of 1 profiles in use do not read"):
        run("verify")


def test_a_change_is_a_new_version(definition: Path) -> None:
    wish = ("add", PLAIN.hex(), "--definition", str(definition), "--title", TITLE.hex(), "--name", "one")
    run(*wish)
    assert "Registered one version 2" in run(*wish, "--for", TITLE.hex())
    newest = PushProfile.objects.get(version=2)
    assert bytes(newest.title_prefix) == TITLE


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("check",), "Name the sample"),
        (("check", "00"), "neither a data or event notification|does not open"),
        (("check", "0f00"), "A-XDR"),
        (("check", "db08" + 40 * "00"), "does not open"),
        (("add", PLAIN.hex()), "--definition"),
        (("add", PLAIN.hex(), "--title", TITLE.hex(), "--definition", "{}"), "Cannot read"),
    ],
)
def test_mistakes_are_said(args: Any, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        run(*args)
    assert not PushProfile.objects.exists()


def test_a_definition_that_does_not_fit_its_sample_is_refused(tmp_path: Path, definition: Path) -> None:
    decrypted = ("--title", TITLE.hex(), "--name", "x")
    path = tmp_path / "other.json"
    for said, why in (
        ({"kind": "p1", "clock": {"from": "0-0:1.0.0"}}, "another kind"),
        ({**BY_NAME["positional"], "columns": BY_NAME["positional"]["columns"][:2]}, "does not say what element 2"),
        ([], "no JSON object"),
    ):
        path.write_text(json.dumps(said))
        with pytest.raises(CommandError, match=why):
            run("add", PLAIN.hex(), "--definition", str(path), *decrypted)
    with pytest.raises(CommandError, match="which meter sent"):
        run("add", PLAIN.hex(), "--definition", str(definition), "--name", "x")
    with pytest.raises(CommandError, match="begin with 3 to 8 octets"):
        run("add", PLAIN.hex(), "--definition", str(definition), *decrypted, "--for", "5453")
    assert not PushProfile.objects.exists()


def test_profiles_for_public_captures_come_along() -> None:
    listed = run("public").splitlines()
    assert len(listed) == len(push_profiles.public()) >= 12
    for one in push_profiles.public():
        assert one.name in run("public")
        assert " at " in one.source
        assert "(MIT)" in one.source or "(Apache-2.0)" in one.source
        assert push_profiles.check(one.wish.definition, one.wish.sample, one.wish.sample_title).values
    assert not PushProfile.objects.exists()
    assert "Registered Kaifa list 2 (NO) version 1" in run("add", "--public", "Kaifa list 2 (NO)")
    with pytest.raises(CommandError, match="push_profile public lists them"):
        run("add", "--public", "Nobody's")
