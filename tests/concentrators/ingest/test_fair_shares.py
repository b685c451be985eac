"""What one concentrator may have of what all share, and that honest meters beside forged frames are never stopped."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from concentrators.fleet import tokens
from concentrators.ingest import dispatch, fair_shares, verification
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator, FailureTally, Uplink
from keyvault.cose.structures import encode_sequence
from tests.concentrators.api.test_api import CBOR_SEQUENCE, URL
from tests.concentrators.fleet import Device, commission, outcome, post
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def looking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_shares, "_LOOK_S", 0.0)


def send(concentrator: Concentrator, frames: list[bytes]) -> Any:
    headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}
    return Client().post(URL, encode_sequence(frames), content_type=CBOR_SEQUENCE, headers=headers)


def tally(concentrator: Concentrator, kind: str, failures: int, hours_ago: int = 0) -> None:
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours_ago)
    FailureTally.objects.create(concentrator=concentrator, kind=kind, hour=hour, failures=failures)


def stranger(number: int) -> bytes:
    """A frame of a meter that nobody knows."""
    title = (0x1122_3344_0000_0000 + number).to_bytes(8, "big")
    return bytes.fromhex("d08352a3010a044a") + title + bytes.fromhex("0001064101a049") + bytes(9)


def test_a_share_of_the_queue(concentrator: Concentrator, other_concentrator: Concentrator, settings: Settings) -> None:
    settings.UPLINK_QUEUE_SHARE = 3
    answers = [send(concentrator, [stranger(n)]) for n in range(5)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
    assert "share of the queue" in answers[-1].json()["detail"]
    assert int(answers[-1]["Retry-After"]) > 0
    assert Uplink.objects.count() == 3
    assert send(other_concentrator, [stranger(9)]).status_code == 202
    verification.verify(answers[0].json()["uplink"])
    assert send(concentrator, [stranger(10)]).status_code == 202


def test_a_share_of_octets(concentrator: Concentrator, other_concentrator: Concentrator, settings: Settings) -> None:
    settings.UPLINK_OCTETS_PER_HOUR = 200
    frames = [[bytes([n]) * 99] for n in range(4)]
    answers = [send(concentrator, one) for one in frames]
    assert [answer.status_code for answer in answers] == [202, 202, 429, 429]
    assert "octets within an hour" in answers[-1].json()["detail"]
    assert int(answers[-1]["Retry-After"]) > 0
    assert send(other_concentrator, frames[3]).status_code == 202
    Uplink.objects.update(received_at=timezone.now() - timedelta(minutes=61))
    assert send(concentrator, frames[3]).status_code == 202


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("tag_invalid", "BAD_TAGS_PER_HOUR"),
        ("unknown_device", "UNKNOWN_FRAMES_PER_HOUR"),
        ("unknown_epoch", "UNKNOWN_FRAMES_PER_HOUR"),
    ],
)
def test_beyond_the_allowance_a_concentrator_comes_last_and_its_honest_meters_are_taken(
    concentrator: Concentrator, other_concentrator: Concentrator, settings: Settings, kind: str, setting: str
) -> None:
    setattr(settings, setting, 10)
    mine, theirs = commission(1, concentrator)[0], commission(1, other_concentrator)[0]
    tally(concentrator, kind, 9)
    tally(concentrator, kind, 1000, hours_ago=1)
    tally(concentrator, "malformed", 1000)
    assert not fair_shares.standing(concentrator.pk, timezone.now()).comes_last
    FailureTally.objects.filter(failures=9).update(failures=10)
    behind = send(concentrator, [mine.frame(0), stranger(1)])
    before = send(other_concentrator, [theirs.frame(0)])
    assert (behind.status_code, before.status_code) == (202, 202)
    order = list(Uplink.objects.order_by("due_at").values_list("pk", flat=True))
    assert order == [before.json()["uplink"], behind.json()["uplink"]]
    assert dispatch.verify_backlog(before.json()["uplink"]) is None
    assert outcome(Uplink.objects.get(pk=behind.json()["uplink"])) == {"accepted": 1, "unknown_device": 1}


def test_who_comes_last_is_level_with_the_others_ten_minutes_later(
    concentrator: Concentrator, settings: Settings
) -> None:
    settings.UNKNOWN_FRAMES_PER_HOUR = 1
    usual = post(concentrator, [stranger(1)])
    tally(concentrator, "unknown_device", 1)
    last = send(concentrator, [stranger(2)]).json()["uplink"]
    row = Uplink.objects.get(pk=last)
    put_off = (row.due_at - row.received_at) - (usual.due_at - usual.received_at)
    assert put_off == timedelta(minutes=10)


def test_a_flood_of_one_does_not_hold_up_the_lots_of_others(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty uplinks of a flood came first, each a lot of its own; nobody else waits for more than one of them."""
    monkeypatch.setattr(dispatch, "_FRAMES_TOGETHER", 4)
    flood = [post(concentrator, [stranger(10 * n + m) for m in range(4)]) for n in range(30)]
    honest: list[tuple[Device, Uplink]] = []
    for _ in range(5):
        other = ConcentratorFactory.create()
        (device,) = commission(1, other)
        honest += [(device, post(other, [device.frame(n)])) for n in range(8)]
    lots: list[list[int]] = []
    verify = verification.verify_together

    def note_and_verify(lot: list[int], worker: Worker) -> dict[int, Verdicts]:
        lots.append(lot)
        return verify(lot, worker)

    monkeypatch.setattr(verification, "verify_together", note_and_verify)
    assert dispatch.verify_backlog(flood[0].pk) is None
    theirs = {uplink.pk for _, uplink in honest}
    last = max(number for number, lot in enumerate(lots) if theirs.intersection(lot))
    assert sum(not theirs.intersection(lot) for lot in lots[:last]) <= 2
    assert not Uplink.objects.filter(verified_at=None).exists()
    assert {outcome(Uplink.objects.get(pk=pk))["accepted"] for pk in theirs} == {1}


def test_one_look_a_second(concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(fair_shares, "_LOOK_S", 3600.0)
    first = fair_shares.look(concentrator.pk, timezone.now())
    settings.UPLINK_QUEUE_SHARE = 0
    assert fair_shares.look(concentrator.pk, timezone.now()) == first
    monkeypatch.setattr(fair_shares, "_KEPT_AT_MOST", 1)
    other = ConcentratorFactory.create()
    fair_shares.look(other.pk, timezone.now())
    assert fair_shares.look(concentrator.pk, timezone.now()).is_queue_spent
