"""Meters of scheme session: which sessions are kept, what is refused, and that it costs no more statements."""

import secrets
from datetime import datetime, timedelta

import pytest
from pytest_django import Settings

from ami_headend.core.sql import fetch_rows
from concentrators import retention
from concentrators.ingest import reverification, verification, worker
from concentrators.ingest.transaction_retry import Foresight
from concentrators.models import Concentrator
from keyvault.ciphers import KeptCiphers
from keyvault.device_keys import command_sealing, epochs, inventory, key_rows, last_heard, provisioning
from keyvault.device_keys.command_sealing import PlainCommand
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, InvocationCounter, KeyState, Session
from keyvault.opening import open_frames
from keyvault.replay_window_store import Care
from keyvault.schemes.session import SessionSealer, kid_context
from meters.models import Meter
from tests.concentrators.fleet import (
    NOW,
    START_S,
    commission,
    evidence,
    judged,
    outcome,
    post,
    readings_of,
    usual,
    verified,
)
from tests.concentrators.scheme_devices import SessionDevice, of_mac, of_session
from tests.concentrators.statements import Statements
from tests.factories import ConcentratorFactory
from tests.stateful.headend import ACTOR

pytestmark = pytest.mark.django_db


def booted(concentrator: Concentrator, times: int) -> list[SessionDevice]:
    """A meter in as many sessions, the lowest first."""
    sessions = [of_session(concentrator)]
    while len(sessions) < times:
        sessions.append(sessions[-1].reboot())
    return sessions


class TestKept:
    def test_sessions_come_in_any_order_and_each_has_its_own_counters(self, concentrator: Concentrator) -> None:
        first, second, third = booted(concentrator, 3)
        assert judged(concentrator, [second.frame(1), first.frame(0), third.frame(2)]) == {"accepted": 3}
        assert judged(concentrator, [first.frame(3), third.frame(4, counter=5)]) == {"accepted": 2}
        assert judged(concentrator, [third.frame(5, counter=3), third.frame(5, counter=3)]) == {
            "accepted": 1,
            "duplicate": 1,
        }
        assert first.kept() == [first.context, second.context, third.context]
        assert [session.counter().highest for session in (first, second, third)] == [1, 0, 5]
        own = InvocationCounter.objects.get(key=first.row())
        assert (own.highest, bytes(own.session_floor), own.heard_at) == (-1, b"", None)

    def test_the_lowest_is_given_up_and_closed(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.SESSIONS_KEPT = 2
        sessions = booted(concentrator, 4)
        assert judged(concentrator, [one.frame(n) for n, one in enumerate(sessions[:2])]) == {"accepted": 2}
        assert judged(concentrator, [sessions[3].frame(3)]) == {"accepted": 1}
        assert sessions[0].kept() == [sessions[1].context, sessions[3].context]
        assert bytes(InvocationCounter.objects.get(key=sessions[0].row()).session_floor) == sessions[0].context
        uplink = verified(concentrator, [sessions[0].frame(4), sessions[1].frame(5)])
        assert outcome(uplink) == {"accepted": 1, "session_closed": 1}
        assert evidence(uplink)[0].detail == "its session is kept no longer: the meter began others since"
        assert bytes(evidence(uplink)[0].kid or b"") == sessions[0].kid

    def test_one_above_the_floor_that_is_too_low_to_be_kept_counts_once(
        self, concentrator: Concentrator, settings: Settings
    ) -> None:
        settings.SESSIONS_KEPT = 2
        sessions = booted(concentrator, 4)
        assert judged(concentrator, [one.frame(n) for n, one in enumerate(sessions[2:])]) == {"accepted": 2}
        frames = [sessions[1].frame(5), sessions[1].frame(6)]
        assert judged(concentrator, frames) == {"accepted": 2}
        assert sessions[0].kept() == [one.context for one in sessions[2:]]
        assert judged(concentrator, [*frames, sessions[0].frame(7)]) == {"session_closed": 3}
        assert readings_of(sessions[0]).keys() == {0, 1, 5, 6}

    def test_many_at_once_leave_the_highest(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.SESSIONS_KEPT = 3
        sessions = booted(concentrator, 8)
        assert judged(concentrator, [one.frame(n) for n, one in enumerate(sessions)]) == {"accepted": 8}
        assert sessions[0].kept() == [one.context for one in sessions[5:]]
        assert bytes(InvocationCounter.objects.get(key=sessions[0].row()).session_floor) == sessions[4].context

    def test_nothing_is_kept_of_a_session_that_no_tag_vouches_for(self, concentrator: Concentrator) -> None:
        device = of_session(concentrator)
        made_up = [device.reboot().frame(0)[:-1] + secrets.token_bytes(1) for _ in range(20)]
        ciphers = KeptCiphers()
        opening = open_frames([list(enumerate([*made_up, device.frame(0)]))], Care.LOOK, ciphers)
        assert len(opening.uplinks[0].opened) >= 1
        assert device.kid in ciphers.kept([device.kid])
        foreign = SessionSealer(
            secrets.token_bytes(32), device.title, 1, 10, kid_context(START_S, secrets.token_bytes(8))
        )
        before = len(ciphers)
        assert not open_frames([[(0, foreign.seal(usual(0)))]], Care.LOOK, ciphers).uplinks[0].opened
        assert len(ciphers) == before
        assert not Session.objects.exists()


class TestAhead:
    def test_a_session_of_the_future_waits_and_nothing_is_written(self, concentrator: Concentrator) -> None:
        ahead = of_session(concentrator).reboot(int(NOW.timestamp()) + 301)
        uplink = verified(concentrator, [ahead.frame(0)])
        assert (outcome(uplink), uplink.waiting) == ({"clock_skew": 1}, 1)
        assert "its session began at" in evidence(uplink)[0].detail
        assert not Session.objects.exists()
        in_time = ahead.reboot(int(NOW.timestamp()) + 300)
        assert judged(concentrator, [in_time.frame(0)]) == {"accepted": 1}
        assert judged(concentrator, [ahead.frame(1, counter=0)], NOW + timedelta(seconds=2)) == {"accepted": 1}

    def test_before_the_payload_is_looked_at(self, concentrator: Concentrator) -> None:
        ahead = of_session(concentrator).reboot(2**32 - 1)
        assert judged(concentrator, [ahead.seal(b"no pack")]) == {"clock_skew": 1}
        assert not Session.objects.exists()


def heard_of(device: SessionDevice) -> set[datetime | None]:
    """When a meter was heard last, by everything that says so."""
    key, title = device.row(), device.title
    meter = Meter.objects.annotate(heard_at=last_heard.last_at("system_title")).get(pk=device.meter.pk)
    of_key = DeviceKey.objects.annotate(heard_at=last_heard.last_of_key("pk")).get(pk=key.pk)
    [(last, _)] = fetch_rows(f"SELECT h.* FROM (SELECT 1) m {last_heard.LAST.format(title='%s')}", title)
    [(of_all,)] = fetch_rows(f"SELECT heard_at FROM {last_heard.OF_ALL} h WHERE system_title = %s", title)
    listed = inventory.of_device(title)[0]["heard_at"]
    found = {last, of_all, listed, meter.heard_at, of_key.heard_at, inventory.counters([key.pk])[key.pk][1]}
    for at in found - {None}:
        [(since, before)] = fetch_rows(
            f"SELECT {last_heard.SINCE.format(title='%s')}, {last_heard.SINCE.format(title='%s')}",
            *(title, at, title, at + timedelta(seconds=1)),
        )
        assert (since, before) == (True, False)
    return found


def via(device: SessionDevice) -> int:
    return int(inventory.of_device(device.title)[0]["heard_via"])


class TestHeard:
    def test_by_whichever_session_came_last(self, concentrator: Concentrator) -> None:
        first, second = booted(concentrator, 2)
        other = ConcentratorFactory.create()
        assert heard_of(first) == {None}
        judged(concentrator, [second.frame(0)], NOW)
        assert (heard_of(first), via(first)) == ({NOW}, concentrator.pk)
        later = NOW + timedelta(seconds=9)
        assert judged(other, [first.frame(1)], later) == {"accepted": 1}
        assert judged(concentrator, [second.frame(2)], later - timedelta(seconds=5)) == {"accepted": 1}
        assert (heard_of(first), via(first)) == ({later}, other.pk)

    def test_stays_when_the_session_goes(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.SESSIONS_KEPT = 2
        sessions = booted(concentrator, 3)
        other, later = ConcentratorFactory.create(), NOW + timedelta(seconds=9)
        judged(concentrator, [one.frame(n) for n, one in enumerate(sessions[:2])])
        judged(other, [sessions[0].frame(3)], later)
        judged(concentrator, [sessions[2].frame(4)])
        assert sessions[0].kept() == [one.context for one in sessions[1:]]
        assert (heard_of(sessions[0]), via(sessions[0])) == ({later}, other.pk)

    def test_a_frame_writes_its_session_and_nothing_else(self, concentrator: Concentrator) -> None:
        device = of_session(concentrator)
        judged(concentrator, [device.frame(0)])

        def own_row() -> list[tuple[object, ...]]:
            return fetch_rows("SELECT xmin::text, ctid::text FROM keyvault_invocationcounter")

        before = own_row()
        for frames in ([device.frame(1)], [device.frame(3, counter=5)], [device.frame(2, counter=3)]):
            assert judged(concentrator, frames, NOW + timedelta(seconds=2)) == {"accepted": 1}
        assert own_row() == before
        assert heard_of(device) == {NOW + timedelta(seconds=2)}


def test_ended_keys_keep_their_newest_session_and_no_verdict_changes(
    concentrator: Concentrator, settings: Settings
) -> None:
    settings.SESSIONS_KEPT = 3
    other, later = ConcentratorFactory.create(), NOW + timedelta(seconds=9)
    fleet = [booted(concentrator, 4) for _ in range(3)]
    judged(concentrator, [one.frame(n) for sessions in fleet for n, one in enumerate(sessions)])
    judged(other, [sessions[1].frame(4) for sessions in fleet], later)
    for sessions, state in zip(fleet[:2], (KeyState.RETIRED, KeyState.COMPROMISED), strict=True):
        key_rows.set_key_state([sessions[0].row().pk], state)
    late = [one.frame(6, counter=counter) for sessions in fleet for one in sessions for counter in (0, 1, 7)]
    stands = [(inventory.of_device(sessions[0].title), heard_of(sessions[0])) for sessions in fleet]
    verdicts = judged(concentrator, late[:24])
    assert verdicts == {"key_retired": 24}
    assert retention.delete_old(NOW)["sessions"] == 4
    assert [len(sessions[0].kept()) for sessions in fleet] == [1, 1, 3]
    assert fleet[0][0].kept() == [fleet[0][3].context]
    assert bytes(InvocationCounter.objects.get(key=fleet[0][0].row()).session_floor) == fleet[0][2].context
    assert judged(concentrator, late[:24]) == verdicts
    assert [(inventory.of_device(sessions[0].title), heard_of(sessions[0])) for sessions in fleet] == stands
    assert retention.delete_old(NOW)["sessions"] == 0


class TestKeys:
    def test_two_sessions_prove_one_pending_key(self, concentrator: Concentrator) -> None:
        old = commission(1, concentrator)[0]
        new = SessionDevice(old.meter, secrets.token_bytes(32), 2)
        provisioning.provision_pending([NewKey(new.title, 2, new.key, 10, "session")], {})
        assert judged(concentrator, [new.frame(0), new.reboot().frame(1), old.frame(2)]) == {"accepted": 3}
        states = DeviceKey.objects.filter(system_title=new.title).order_by("epoch").values_list("state", flat=True)
        assert list(states) == [KeyState.RETIRING, KeyState.ACTIVE]

    def test_compromise_and_retirement_close_all_sessions(self, concentrator: Concentrator) -> None:
        device = of_session(concentrator)
        assert judged(concentrator, [device.frame(0)]) == {"accepted": 1}
        epochs.compromise([device.row().pk], ACTOR)
        assert Session.objects.get().key_version == device.row().version == 2
        assert judged(concentrator, [device.frame(1), device.reboot().frame(2)]) == {"key_retired": 2}

    def test_a_cancelled_key_goes_with_its_sessions(self, concentrator: Concentrator) -> None:
        device = of_session(concentrator)
        judged(concentrator, [device.frame(0)])
        DeviceKey.objects.filter(pk=device.row().pk).update(state=KeyState.PENDING)
        epochs.cancel([device.title])
        assert not Session.objects.exists()
        assert not DeviceKey.objects.filter(system_title=device.title).exists()

    def test_frames_of_the_transfer_epoch_or_of_another_scheme_open_nothing(self, concentrator: Concentrator) -> None:
        device, other = of_session(concentrator), of_mac(concentrator)
        of_transfer = SessionDevice(device.meter, device.key, 0)
        of_other = SessionDevice(other.meter, other.key)
        uplink = verified(concentrator, [of_transfer.frame(0), of_other.frame(0)])
        assert outcome(uplink) == {"unknown_epoch": 1, "algorithm_mismatch": 1}
        assert uplink.waiting == 0
        assert evidence(uplink)[1].detail == "envelope session, provisioned is mac"

    def test_a_frame_that_waited_for_its_key_opens_its_session(self, concentrator: Concentrator) -> None:
        device = SessionDevice(of_mac(concentrator).meter, secrets.token_bytes(32), 2)
        uplink = verified(concentrator, [device.frame(0), device.frame(1)])
        assert outcome(uplink) == {"unknown_epoch": 2}
        provisioning.provision_pending([NewKey(device.title, 2, device.key, 10, "session")], {})
        assert reverification.verify_all_again([uplink.pk]).verdicts.accepted == 2
        assert device.counter().highest == 1

    def test_a_clock_command_tells_how_far_the_newest_session_was_heard(self, concentrator: Concentrator) -> None:
        first, second = booted(concentrator, 2)
        judged(concentrator, [second.frame(0), *(first.frame(n) for n in range(1, 4))])
        assert command_sealing.heard_of([first.row().pk]) == {first.row().pk: 1}
        command = PlainCommand(1, first.title, (4, 1, int(NOW.timestamp())), dated=True)
        assert command_sealing.seal([command], NOW).keys() == {1}


def test_a_key_is_worn_by_its_newest_session(concentrator: Concentrator, settings: Settings) -> None:
    """Each session has an AES key of its own: what others brought does not wear it."""
    settings.KEY_ROTATE_AT_COUNTER = 3
    first, second = booted(concentrator, 2)
    provisioning.provision_stored([NewKey(first.title, 0)])
    assert judged(concentrator, [first.frame(n) for n in range(3)]) == {"accepted": 3}
    assert list(epochs.near_budget(5)) == []
    assert judged(concentrator, [first.frame(3)]) == {"accepted": 1}
    assert list(epochs.near_budget(5)) == [[first.title]]
    near = inventory.near_budget(5)
    assert [(key.system_title, key.highest) for key in near.listed] == [(first.title, 3)]
    assert inventory.of_device(first.title)[0]["counter"] == 3
    assert judged(concentrator, [second.frame(4, counter=0)]) == {"accepted": 1}  # the meter booted
    assert list(epochs.near_budget(5)) == []
    assert inventory.near_budget(5).number == 0
    assert inventory.of_device(first.title)[0]["counter"] == 0


def test_a_mixed_fleet_costs_as_many_statements_as_the_usual_one(
    concentrator: Concentrator, statements: Statements
) -> None:
    """But for two more where sessions begin."""

    def cost(frames: list[bytes]) -> int:
        uplink = post(concentrator, frames)
        worker.PROCESS.foresight = Foresight()
        statements.take()
        verification.verify(uplink.pk)
        return len(statements.take())

    for size in (2, 9):
        usual_ones = commission(2 * size, concentrator)
        mixed = [*commission(size, concentrator), *(of_session(concentrator) for _ in range(size))]
        begin = [cost([device.frame(0) for device in fleet]) for fleet in (usual_ones, mixed)]
        assert begin[1] == begin[0] + 2
        for interval in (1, 2):
            each = [cost([device.frame(interval) for device in fleet]) for fleet in (usual_ones, mixed)]
            assert each[1] == each[0]
        skipped = [cost([device.frame(5, counter=9) for device in fleet]) for fleet in (usual_ones, mixed)]
        assert skipped[1] == skipped[0]
    assert worker.PROCESS.ciphers.kept([mixed[-1].kid])
