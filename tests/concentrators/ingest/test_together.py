"""Uplinks verified in one transaction come out as if each had been verified alone."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from concentrators.ingest import verification
from concentrators.ingest.worker import PROCESS
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from concentrators.totals import totals
from keyvault.device_keys.key_rows import set_key_state
from keyvault.models import KeyState
from meters.models import MeterEvent, Reading
from meters.readings import store
from meters.values import NewValue
from tests.builders import senml_payload
from tests.concentrators.fleet import (
    NOW,
    START_S,
    WINDOW,
    Device,
    commission,
    evidence,
    outcome,
    post,
    readings_of,
    tallies,
)
from tests.concentrators.statements import counting
from tests.damage import damaged
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


def together(uplinks: list[Uplink]) -> list[dict[str, int]]:
    """What becomes of uplinks that are verified in one transaction."""
    verification.verify_together([uplink.pk for uplink in uplinks])
    for uplink in uplinks:
        uplink.refresh_from_db()
        assert uplink.verified_at is not None
        assert len(evidence(uplink)) == uplink.rejected == sum(uplink.failures.values())
    assert totals.compare(*WINDOW) == []
    return [outcome(uplink) for uplink in uplinks]


def test_each_has_its_own_verdicts_and_its_readings_name_it(concentrator: Concentrator, device: Device) -> None:
    uplinks = [post(concentrator, [device.frame(n), b"garbage"], NOW - n * MINUTE) for n in range(3)]
    assert together(uplinks) == [{"accepted": 1, "malformed": 1}] * 3
    assert [Reading.objects.filter(uplink_id=uplink.pk).count() for uplink in uplinks] == [2, 2, 2]
    assert [[row.received_at for row in evidence(uplink)] for uplink in uplinks] == [
        [NOW - n * MINUTE] for n in range(3)
    ]
    assert tallies(concentrator) == {"malformed": 3}


def test_last_heard_is_the_latest_receipt_of_an_accepted_frame(concentrator: Concentrator, device: Device) -> None:
    late = device.frame(0)
    uplinks = [
        post(concentrator, [device.frame(1)], NOW - 2 * MINUTE),
        post(concentrator, [late], NOW - MINUTE),
        post(concentrator, [device.seal(b"no pack")], NOW),
    ]
    together(uplinks)
    assert device.counter().heard_at == NOW - MINUTE
    assert device.counter().heard_via == concentrator.pk


def test_uplinks_of_several_concentrators(concentrator: Concentrator, device: Device) -> None:
    other = ConcentratorFactory.create()
    (theirs,) = commission(1, other)
    uplinks = [
        post(concentrator, [device.frame(0), b"garbage"]),
        post(other, [theirs.frame(0), device.frame(1), b"garbage", b"trash"], NOW + MINUTE),
    ]
    assert together(uplinks) == [{"accepted": 1, "malformed": 1}, {"accepted": 2, "malformed": 2}]
    assert (tallies(concentrator), tallies(other)) == ({"malformed": 1}, {"malformed": 2})
    assert device.counter().heard_via == theirs.counter().heard_via == other.pk


def test_the_same_frame_in_two_of_them_counts_once(concentrator: Concentrator, device: Device) -> None:
    frame, other = device.frame(0), device.frame(1)
    uplinks = [post(concentrator, [frame]), post(concentrator, [frame, other])]
    assert together(uplinks) == [{"accepted": 1}, {"duplicate": 1, "accepted": 1}]


def test_a_counter_used_twice_in_two_of_them(concentrator: Concentrator, device: Device) -> None:
    uplinks = [post(concentrator, [device.frame(0, 100, 7)]), post(concentrator, [device.frame(0, 101, 7)])]
    assert together(uplinks) == [{"accepted": 1}, {"counter_reused": 1}]


def test_a_refused_frame_again_in_the_next(concentrator: Concentrator, device: Device) -> None:
    refused = device.seal(b"no pack")
    uplinks = [post(concentrator, [refused]), post(concentrator, [refused, device.frame(0)])]
    assert together(uplinks) == [{"payload_invalid": 1}, {"payload_invalid": 1, "accepted": 1}]


def test_one_place_said_twice_under_new_counters(concentrator: Concentrator, device: Device) -> None:
    """Found by the readings' primary key alone; then looked at with care."""
    uplinks = [post(concentrator, [device.frame(0, wh)]) for wh in (100, 100, 101)]
    assert together(uplinks) == [{"accepted": 1}, {"accepted": 1}, {"reading_conflict": 1}]
    assert readings_of(device) == {0: 100}
    assert Reading.objects.filter(uplink_id=uplinks[1].pk).count() == 0


def test_one_place_said_twice_in_one_uplink(concentrator: Concentrator, device: Device) -> None:
    uplink = post(concentrator, [device.frame(0, 100), device.frame(0, 100), device.frame(0, 101), device.frame(1)])
    assert together([uplink]) == [{"accepted": 3, "reading_conflict": 1}]


def test_events_keep_the_uplink_that_brought_them(concentrator: Concentrator, device: Device) -> None:
    uplinks = [
        post(concentrator, [device.seal(senml_payload({"0-0:96.11.1": n}, START_S + n, "count"))], NOW - n * MINUTE)
        for n in range(2)
    ]
    assert together(uplinks) == [{"accepted": 1}] * 2
    rows = MeterEvent.objects.order_by("pk").values_list("uplink_id", "received_at", "value")
    assert list(rows) == [(uplink.pk, NOW - n * MINUTE, n) for n, uplink in enumerate(uplinks)]


def test_one_that_is_verified_already_is_left_out(concentrator: Concentrator, device: Device) -> None:
    done, fresh = post(concentrator, [device.frame(0)]), post(concentrator, [device.frame(1)])
    verification.verify(done.pk)
    assert set(verification.verify_together([done.pk, fresh.pk])) == {fresh.pk}
    assert verification.verify_together([done.pk, fresh.pk]) == {}


def test_one_that_cannot_be_processed_holds_up_no_other(
    concentrator: Concentrator, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    uplinks = [post(concentrator, [device.frame(n)]) for n in range(3)]
    copy = store.copy_readings

    def choke(rows: list[NewValue]) -> None:
        if any(uplink_id == uplinks[1].pk for _, _, uplink_id, _ in rows):
            raise ZeroDivisionError
        copy(rows)

    monkeypatch.setattr(store, "copy_readings", choke)
    verification.verify_together([uplink.pk for uplink in uplinks])
    for uplink in uplinks:
        uplink.refresh_from_db()
    assert [uplink.verified_at is None for uplink in uplinks] == [False, True, False]
    assert [uplink.attempts for uplink in uplinks] == [0, 1, 0]


def test_any_mix_comes_out_as_one_by_one(concentrator: Concentrator) -> None:
    """The same frames, cut into uplinks alike: verified together in one place, alone in the other."""
    random_ = random.Random(7)
    devices = commission(5, concentrator)
    frames = [device.frame(n, 100 + n % 3) for n in range(12) for device in devices]
    frames += [
        device.frame(n, 200) for n in range(3) for device in devices
    ]  # conflicts, or first where those come late
    frames += [*random_.sample(frames, 20), b"x", devices[0].seal(b"?"), devices[1].frame(1, 5, counter=3)]
    random_.shuffle(frames)
    lots = [frames[at : at + 9] for at in range(0, len(frames), 9)]
    expected: Counter[str] = Counter()
    alone = ConcentratorFactory.create()
    uplinks = [post(alone, lot) for lot in lots]
    for uplink in uplinks:
        verification.verify(uplink.pk)
        uplink.refresh_from_db()
        expected.update(outcome(uplink))
    before = [outcome(uplink) for uplink in uplinks]
    standing = set(Reading.objects.values_list("meter_id", "register_id", "captured_at", "value"))
    _forget(devices)
    assert together([post(concentrator, lot) for lot in lots]) == before
    assert set(Reading.objects.values_list("meter_id", "register_id", "captured_at", "value")) == standing
    assert sum(expected.values()) == len(frames)


def _forget(devices: list[Device]) -> None:
    """As before the first frame, totals and refusals included."""
    Reading.objects.all().delete()
    IntegrityFailure.objects.all().delete()
    for device in devices:
        counter = device.counter()
        counter.highest, counter.floor, counter.gaps = -1, 0, "{}"
        counter.save()
    totals.recompute(*WINDOW)


def test_the_number_of_queries_does_not_depend_on_the_number_of_uplinks(concentrator: Concentrator) -> None:
    devices = commission(3, concentrator)
    first = 0
    counts = []
    PROCESS.foresight.failed()  # with the query that looks
    for count in (1, 1, 2, 8):
        uplinks = [post(concentrator, [device.frame(first + n) for device in devices]) for n in range(count)]
        first += count
        with counting() as statements:
            verification.verify_together([uplink.pk for uplink in uplinks])
            counts.append(len(statements.take()))
    assert counts[1:] == [counts[1]] * 3  # the first one met the keys for the first time


class TestForesight:
    """What frames foresee is taken for true, until it proves wrong."""

    def reads(self, uplinks: list[Uplink]) -> int:
        """Verify uplinks; gives how often counters were read."""
        with counting() as statements:
            together(uplinks)
            return sum(one.startswith("SELECT t.n, ") for one in statements.take())

    def test_a_surprise_is_judged_as_ever_and_the_next_lots_are_looked_at(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        frames = [device.frame(n) for n in range(6)]
        together([post(concentrator, frames[:1])])
        assert self.reads([post(concentrator, frames[1:2])]) == 0
        uplinks = [
            post(concentrator, [frames[2]]),
            post(concentrator, [damaged(frames[3])]),
            post(ConcentratorFactory.create(), [frames[2]]),
        ]
        assert self.reads(uplinks[:1]) == 0
        assert self.reads(uplinks[1:]) > 0
        assert [outcome(uplink) for uplink in uplinks] == [{"accepted": 1}, {"tag_invalid": 1}, {"duplicate": 1}]
        assert self.reads([post(concentrator, frames[4:5])]) == 1
        PROCESS.foresight._looks = 0
        assert self.reads([post(concentrator, frames[5:6])]) == 0

    @pytest.mark.parametrize("state", [KeyState.COMPROMISED, KeyState.RETIRED])
    def test_a_key_is_cut_off_at_once(self, concentrator: Concentrator, device: Device, state: KeyState) -> None:
        together([post(concentrator, [device.frame(0)])])
        set_key_state([device.counter().key_id], state)
        forged = damaged(device.frame(1))
        assert together([post(concentrator, [forged])]) == [{"key_retired": 1}]
        assert together([post(concentrator, [device.frame(2)])]) == [{"key_retired": 1}]
