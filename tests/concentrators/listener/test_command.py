"""manage.py dlms_listen: what it refuses, and that what it receives is judged like what is posted."""

import secrets
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.core.management.base import CommandError

from concentrators.ingest import dispatch
from concentrators.listener import gatherer as gathering
from concentrators.listener.figures import Figures, recent
from concentrators.management.commands import dlms_listen
from concentrators.models import Concentrator, Uplink
from keyvault.cose.structures import split_sequence
from tests.concentrators.dlms_devices import dlms_meter, meter_of
from tests.concentrators.fleet import outcome
from tests.concentrators.listener.test_cutters import APDU, hdlc, wrapped
from tests.concentrators.test_push_profile_command import PLAIN, TITLE, dated
from tests.dlms_frames import SYNTHETIC, octets
from tests.dlms_frames import key_set as keys_of
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


def test_a_pushed_frame_waits_for_its_profile_like_a_posted_one() -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    gathering.receive(concentrator.pk, [wrapped(device.frame(dated(PLAIN), counter)) for counter in range(3)])
    uplink = Uplink.objects.get()
    dispatch.verify_backlog(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"unknown_profile": 3}


def test_an_inactive_concentrator_brings_nothing() -> None:
    concentrator = ConcentratorFactory.create(is_active=False)
    with pytest.raises(gathering.InactiveError):
        gathering.receive(concentrator.pk, [APDU])
    assert not Uplink.objects.exists()


def frames_of(uplink: Uplink) -> list[bytes]:
    return split_sequence(bytes(uplink.body or b""))


def test_an_event_notification_without_a_title_is_of_the_meter_at_the_end_of_the_link() -> None:
    """``ca`` says no sender: it is the only meter of the concentrator, or the one that a source port stands for."""
    entry = SYNTHETIC["ca_glo_event_notification"]
    concentrator: Concentrator = ConcentratorFactory.create()
    dlms_meter(TITLE, keys_of(entry) or b"", concentrator)
    bare, other = octets(entry), b"\xdb\x08" + TITLE + b"\x05" + bytes(5)
    sent = [bare, wrapped(bare, 1), hdlc(b"\xe6\xe7\x00" + bare), other, b"?"]

    def received(**how: dict[int, bytes]) -> list[bytes]:
        gathering.receive(concentrator.pk, sent, **how)
        uplink = Uplink.objects.latest("pk")
        frames = frames_of(uplink)
        uplink.delete()
        return frames

    named = b"\xdb\x08" + TITLE + bare[1:]
    assert received() == [named] * 3 + sent[3:]
    elsewhere = bytes(8)
    assert received(titles_by_port={1: elsewhere}) == [named, b"\xdb\x08" + elsewhere + bare[1:], named, *sent[3:]]
    meter_of(TITLE[:7] + b"\x00", concentrator)  # now it is not plain whose the link is
    assert received() == sent
    gathering.receive(concentrator.pk, [wrapped(bare, 1)], {1: TITLE})
    uplink = Uplink.objects.get()
    dispatch.verify_backlog(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"unknown_profile": 1}  # it opened: the title is the right one


def test_figures_only_grow_and_each_count_is_told_once() -> None:
    figures = Figures("mill:4059 wrapper")
    figures.counts.update(accepted=2, notifications=5, committed=4, dropped=1)
    figures.tell(2)
    figures.counts.update(notifications=1)
    figures.tell(1)
    again = Figures("mill:4059 wrapper")  # after a restart
    again.counts["cut_off"] += 1
    again.tell(0)
    ((name, connections, counts),) = recent()
    assert (name, connections) == ("mill:4059 wrapper", 0)
    assert counts == {
        "accepted": 2, "refused": 0, "cut_off": 1, "notifications": 6, "committed": 4, "dropped": 1,
    }  # fmt: skip


def test_a_concentrator_may_be_registered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlms_listen, "close_old_connections", lambda: None)  # the test's own
    whose = async_to_sync(dlms_listen._one("later"))
    assert whose(None) is None
    concentrator = ConcentratorFactory.create(name="later")
    assert whose(None) == concentrator.pk
    Concentrator.objects.update(is_active=False)
    assert whose(None) is None


def test_mistakes_are_said(tmp_path: Path) -> None:
    ConcentratorFactory.create(name="here")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for args, why in (
        ([], "one of both"),
        (["--concentrator", "here", "--port", "0"], "65535"),
        (["--concentrator", "here", "--key", str(empty)], "need --certificate"),
        (["--concentrator", "here", "--certificate", str(empty)], "cannot be used"),
        (["--concentrator", "here", "--meter", "one"], "is PORT=TITLE"),
        (["--concentrator", "here", "--meter", f"1={TITLE.hex()}", "--hdlc"], "goes with the TCP wrapper"),
        (["--concentrator", "here", "--host", "203.0.113.1"], "Cannot listen on 203.0.113.1 port 4059"),
    ):
        with pytest.raises(CommandError, match=why):
            call_command("dlms_listen", *args)
