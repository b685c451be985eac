"""The notifications of simulated DLMS meters, and the links that carry them."""

import secrets

import pytest

from concentrators.simulator.dlms_links import DlmsLink, carried
from concentrators.simulator.notifications import notification
from concentrators.simulator.packs import interval_payload
from keyvault.schemes.dlms.framing import hdlc_frames, mbus_frames, unwrap
from keyvault.schemes.dlms.notification import is_whole
from meters.readings.push.clocks import ClockRules, unix_second
from meters.readings.push.profiles import parse_notification

START_S = 1_767_225_600


@pytest.mark.parametrize("link", list(DlmsLink))
@pytest.mark.parametrize("octets", [1, 61, 62, 200])
def test_a_link_carries_what_it_is_given(link: DlmsLink, octets: int) -> None:
    apdu = b"\xdb" + secrets.token_bytes(octets - 1)
    assert unwrap(carried(apdu, link)) == apdu


def test_what_meters_push_takes_more_than_one_frame() -> None:
    apdu = b"\xdb" + bytes(109)
    assert [one.is_segmented for one in hdlc_frames(carried(apdu, DlmsLink.HDLC))] == [True, False]
    assert [one.control_information for one in mbus_frames(carried(apdu, DlmsLink.MBUS))] == [0x00, 0x11]


def test_a_notification_by_its_octets() -> None:
    said = notification(interval_payload(START_S, 5, 7), 9)
    assert said.hex(" ", 1).startswith(
        "0f 00 00 00 09 0c 07 ea 01 01 04 01 00 00 00 ff c4 00 02 06 09 06 01 00 01 08 00 ff 14"
    )
    assert unix_second(said[6:18], ClockRules()) == START_S
    by_place = parse_notification(notification(interval_payload(START_S, 5, 7), 9, by_place=True))
    assert by_place.skeleton == "0f[00] {octets(12) i64 i64}"


@pytest.mark.parametrize(
    "pack", [b"", b"no pack", interval_payload(START_S, 2**63, 1), interval_payload(START_S, 1, 1) + b"\0"]
)
def test_what_is_no_pack_becomes_no_data(pack: bytes) -> None:
    assert not is_whole(notification(pack, 1))
