"""DLMS frames over HTTP to real workers: a stream with its verdicts, and every vector of the data file."""

import secrets

from concentrators.models import Uplink
from keyvault.device_keys import key_rows
from keyvault.models import TABLES_OF_A_KEY, DeviceKey, InvocationCounter, KeyState
from tests.concentrators.dlms_devices import dlms_meter, key_set, meter_of, profile
from tests.concentrators.fleet import outcome
from tests.concentrators.test_dlms import MALFORMED, MISMATCH, OPEN, REFUSED, TITLE
from tests.dlms_frames import REAL, STREAM, SYNTHETIC, octets
from tests.dlms_frames import key_set as keys_of
from tests.flows import site as sites
from tests.flows.site import Site, wait_verified
from tests.flows.stack import Stack

# Posted today, what a clock says of the afternoon of 2025-07-14 is no longer ahead of ours.
_LATER = {20: "accepted"}


def verdict(site: Site, frame: bytes) -> str:
    uplink_id = site.posted([frame])
    wait_verified([uplink_id])
    ((found, _),) = outcome(Uplink.objects.get(pk=uplink_id)).items()
    return found


def test_the_stream_gets_its_verdicts(live_stack: Stack) -> None:
    site, other = sites.found(live_stack, 0), sites.found(live_stack, 0)
    titles = [bytes.fromhex(one["title"]) for one in STREAM["meters"]]
    for title, one in zip(titles, STREAM["meters"], strict=True):
        control, gak = int(one["accept_sc"][0], 16), bytes.fromhex(one["gak"] or "") or bytes(16)
        dlms_meter(title, bytes.fromhex(one["guek"]) + gak, site.concentrator, control)
        if "pending_guek" in one:
            key_set(title, bytes.fromhex(one["pending_guek"]) + gak, control, 2, KeyState.PENDING)
    profile(bytes.fromhex(STREAM["frames"][0]["plain"]), titles[0])
    sent: list[bytes] = []
    for step in STREAM["frames"]:
        if "action" in step:
            key_rows.set_key_state([DeviceKey.objects.get(system_title=titles[0], epoch=1).pk], KeyState.RETIRED)
            continue
        frame = bytes.fromhex(step["apdu"])
        found = verdict(other if frame in sent else site, frame)
        sent.append(frame)
        assert found in (_LATER.get(step["n"], step["expect"]), *step.get("expect_any", ())), step


def test_every_vector_gets_its_verdict(live_stack: Stack) -> None:
    site = sites.found(live_stack, 0)
    meter_of(TITLE, site.concentrator)
    for name in (*OPEN, *REFUSED):
        entry = SYNTHETIC[name]
        keys = keys_of(entry) or secrets.token_bytes(32)
        control = 0x30 if name in MISMATCH or name in REFUSED else int(entry.get("sc") or "30", 16)
        forget(TITLE)
        key_set(TITLE, keys if control & 0x0F == 2 else keys[:32], control, is_general=name.startswith("dd_"))
        expected = REFUSED.get(name) or ("algorithm_mismatch" if name in MISMATCH else "")
        expected = expected or ("malformed" if name in MALFORMED else "unknown_profile")
        assert verdict(site, octets(entry)) == expected, name


def test_what_real_meters_sent_in_clear_is_refused(live_stack: Stack) -> None:
    site = sites.found(live_stack, 0)
    for name, entry in REAL.items():
        (said,) = entry["frames"]
        if keys_of(entry) is None:
            expected = "unknown_device" if "system_title" in said else "algorithm_mismatch"
            assert verdict(site, octets(entry)) == ("malformed" if "axdr_error" in said else expected), name


def forget(title: bytes) -> None:
    """The keys of a title were never there."""
    keys = DeviceKey.objects.filter(system_title=title)
    assert "keyvault_invocationcounter" in TABLES_OF_A_KEY
    InvocationCounter.objects.filter(key__in=keys).delete()
    keys.delete()
