"""manage.py dlms_listen: what it refuses, and that what it receives is judged like what is posted."""

import secrets
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from concentrators.ingest import dispatch
from concentrators.listener import gatherer as gathering
from concentrators.models import Concentrator, Uplink
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.fleet import outcome
from tests.concentrators.listener.test_cutters import APDU, wrapped
from tests.concentrators.test_push_profile_command import PLAIN, TITLE, dated
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
    gathering.receive(concentrator.pk, [APDU])
    assert not Uplink.objects.exists()


def test_mistakes_are_said(tmp_path: Path) -> None:
    ConcentratorFactory.create(name="here")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for args, why in (
        (["--concentrator", "nowhere"], "No active concentrator"),
        ([], "one of both"),
        (["--concentrator", "here", "--port", "0"], "65535"),
        (["--concentrator", "here", "--key", str(empty)], "need --certificate"),
        (["--concentrator", "here", "--certificate", str(empty)], "cannot be used"),
        (["--concentrator", "here", "--host", "203.0.113.1"], "Cannot listen on 203.0.113.1 port 4059"),
    ):
        with pytest.raises(CommandError, match=why):
            call_command("dlms_listen", *args)
