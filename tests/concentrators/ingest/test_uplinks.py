"""The life of uplink rows: the sweep for what was lost, the backlog, and the purge of octets."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings

from concentrators import retention, tasks
from concentrators.ingest import backlog, uplink_state, verification
from concentrators.ingest.transaction_retry import TransientError
from concentrators.models import Concentrator, Uplink
from tests.concentrators.fleet import NOW, Device, commission, post, verified
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)


class TestSweep:
    def test_what_is_overdue_is_claimed_once(self, concentrator: Concentrator, settings: Settings) -> None:
        after = timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S)
        lost = post(concentrator, [b"lost"])
        verified(concentrator, [b"verified"])
        assert uplink_state.claim_overdue(NOW + after - SECOND) == []
        assert uplink_state.claim_overdue(NOW + after) == [lost.pk]
        assert uplink_state.claim_overdue(NOW + after + SECOND) == []
        assert uplink_state.claim_overdue(NOW + 2 * after) == [lost.pk]

    @pytest.mark.parametrize(("age_minutes", "pause_minutes"), [(3, 3), (9, 9), (120, 10)])
    def test_the_pause_grows_with_the_age_up_to_ten_minutes(
        self, concentrator: Concentrator, age_minutes: int, pause_minutes: int
    ) -> None:
        lost = post(concentrator, [b"lost"])
        at, pause = NOW + timedelta(minutes=age_minutes), timedelta(minutes=pause_minutes)
        assert uplink_state.claim_overdue(at) == [lost.pk]
        assert uplink_state.claim_overdue(at + pause - SECOND) == []
        assert uplink_state.claim_overdue(at + pause) == [lost.pk]

    def test_the_task_enqueues_what_is_overdue(self, concentrator: Concentrator, enqueued: list[int]) -> None:
        old = [post(concentrator, [b"%d" % n], NOW - timedelta(days=1)).pk for n in range(3)]
        enqueued.clear()
        tasks.sweep_uplinks()
        assert enqueued == old
        tasks.sweep_uplinks()
        assert enqueued == old


class TestTask:
    def test_it_verifies(self, concentrator: Concentrator) -> None:
        uplink = post(concentrator, [b"garbage"])
        tasks.verify_backlog(uplink.pk)
        uplink.refresh_from_db()
        assert uplink.rejected == 1

    @pytest.mark.parametrize("uplink_id", [0, 10**12])
    def test_an_uplink_that_is_not_there_is_no_error(self, uplink_id: int) -> None:
        tasks.verify_backlog(uplink_id)

    def test_it_comes_again_where_verification_cannot_go_on(
        self, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise TransientError("the database is away")

        monkeypatch.setattr(verification, "verify_together", away)
        result = tasks.verify_backlog.apply((post(concentrator, [b"x"]).pk,), throw=False)
        assert result.state in {"RETRY", "FAILURE"}
        assert "the database is away" in str(result.result)


def test_the_backlog(concentrator: Concentrator) -> None:
    assert backlog.waiting() == (0, None)
    verified(concentrator, [b"verified"])
    for n in range(3):
        post(concentrator, [b"%d" % n], NOW - n * SECOND)
    assert backlog.waiting() == (3, NOW - 2 * SECOND)
    assert [backlog.is_over(limit) for limit in (0, 2, 3, 100)] == [True, True, False, False]


class TestPurge:
    def test_octets_go_after_their_days_and_verdicts_stay(self, concentrator: Concentrator, settings: Settings) -> None:
        device = commission(1, concentrator)[0]
        uplink = verified(concentrator, [device.frame(0), b"garbage"])
        unverified = post(concentrator, [b"unverified"])
        end = NOW + timedelta(days=settings.UPLINK_KEEP_DAYS)
        assert retention.delete_bodies(end) == 0
        assert retention.delete_bodies(end + SECOND) == 1
        uplink.refresh_from_db()
        assert (uplink.body, uplink.frames, uplink.accepted, uplink.rejected) == (None, 2, 1, 1)
        unverified.refresh_from_db()
        assert unverified.body is not None
        assert retention.delete_bodies(end + SECOND) == 0

    def test_octets_whose_frames_wait_for_a_key_stay_longer(
        self, concentrator: Concentrator, settings: Settings
    ) -> None:
        uplink = verified(concentrator, [Device(MeterFactory.create(), bytes(32)).frame(0)])
        assert uplink.waiting == 1
        assert retention.delete_bodies(NOW + timedelta(days=settings.UPLINK_KEEP_DAYS) + SECOND) == 0
        assert retention.delete_bodies(NOW + timedelta(days=settings.UPLINK_KEEP_WAITING_DAYS) + SECOND) == 1

    def test_in_batches(self, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "_BATCH", 2)
        for n in range(5):
            verified(concentrator, [b"%d" % n])
        assert retention.delete_bodies(NOW + timedelta(days=31)) == 5
        assert not Uplink.objects.filter(body__isnull=False).exists()


def test_the_database_refuses_verdicts_that_do_not_add_up(concentrator: Concentrator) -> None:
    uplink = post(concentrator, [b"one", b"two"])
    with pytest.raises(IntegrityError, match="uplink_verdicts_add_up"), transaction.atomic():
        Uplink.objects.filter(pk=uplink.pk).update(verified_at=NOW, accepted=1)
