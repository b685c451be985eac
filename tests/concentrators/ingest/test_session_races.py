"""Sessions under contention: whatever another does between two statements of a worker, a frame counts once at most."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from pytest_django import DjangoDbBlocker, Settings

from concentrators.ingest import verification
from concentrators.models import Concentrator, Uplink
from keyvault.device_keys import epochs
from keyvault.models import InvocationCounter
from tests.concentrators.fleet import outcome, post, readings_of
from tests.concentrators.scheme_devices import SessionDevice, of_session
from tests.factories import ConcentratorFactory
from tests.flows import databases
from tests.stateful.faults import Fault, Faults, Worker
from tests.stateful.headend import ACTOR

KEPT = 2


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all of this module: each case has a meter of its own."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


class Case(NamedTuple):
    """A meter with what two concentrators post of it, after what was verified before."""

    before: list[bytes]
    first: list[bytes]
    second: list[bytes]
    meter: SessionDevice


def begins(meter: SessionDevice) -> Case:
    """Two workers meet a session at once, with one frame that both have."""
    frames = [meter.frame(n) for n in range(3)]
    return Case([], frames[:2], frames[1:], meter)


def begins_apart(meter: SessionDevice) -> Case:
    """Two workers meet a session at once, with other frames of it: no reading tells them of each other."""
    return Case([], [meter.frame(0)], [meter.frame(1)], meter)


def goes_on(meter: SessionDevice) -> Case:
    """A session that both workers know, each with other frames, and a gap."""
    frames = [meter.frame(n) for n in range(5)]
    return Case(frames[:1], [frames[1], frames[4]], [frames[2]], meter)


def goes_on_beside_a_gap(meter: SessionDevice) -> Case:
    """As one worker foresees, a session goes on, while another session gets a gap; the other worker goes on before."""
    other = meter.reboot()
    before = [meter.frame(0), other.frame(1)]
    first, _, after_gap, second = meter.frame(2), other.frame(3), other.frame(4), [meter.frame(5), meter.frame(6)]
    return Case(before, [first, after_gap], second, meter)


def is_full(meter: SessionDevice) -> Case:
    """As many as are kept stand: one begins a fourth, the other a fifth, and goes on with the lowest."""
    sessions = [meter]
    for _ in range(4):
        sessions.append(sessions[-1].reboot())
    before = [sessions[0].frame(0), sessions[1].frame(1)]
    return Case(
        before, [sessions[3].frame(2)], [sessions[4].frame(3), sessions[0].frame(4), sessions[1].frame(5)], meter
    )


def judge(worker: Worker, uplink: Uplink) -> None:
    with worker.at_work():
        verification.verify(uplink.pk, worker.own)


def beside(
    case: Case, concentrators: list[Concentrator], statement: int, act: str, workers: list[Worker], faults: Faults
) -> bool:
    """One worker verifies, and at a statement of it another verifies what has the same frames, or cuts the key off."""
    if case.before:
        judge(workers[0], post(concentrators[0], case.before))
        judge(workers[1], post(concentrators[1], case.before))
    one, other = (
        post(concentrator, frames)
        for concentrator, frames in zip(concentrators, (case.first, case.second), strict=True)
    )
    came: list[int] = []

    def between() -> None:
        came.append(statement)
        if act == "verify":
            judge(workers[1], other)
        else:
            epochs.compromise([case.meter.row().pk], ACTOR)
            one.refresh_from_db()
            if one.verified_at is None:
                cut_off.append(statement)

    cut_off: list[int] = []
    faults.run(lambda: judge(workers[0], one), Fault(statement, between))
    for uplink in (one, other):
        judge(workers[1], uplink)
        uplink.refresh_from_db()
        assert uplink.verified_at is not None
    if cut_off:
        assert outcome(one) == {"key_retired": len(case.first)}
    distinct = {*case.first, *case.second}
    assert one.accepted + other.accepted <= len(distinct)
    assert len(readings_of(case.meter)) == one.accepted + other.accepted + len(case.before)
    assert len(case.meter.kept()) <= KEPT
    if act == "verify":
        refused = outcome(one).get("session_closed", 0) + outcome(other).get("session_closed", 0)
        assert one.accepted + other.accepted == len(distinct) - refused
        again = post(concentrators[1], [*case.first, *case.second])
        judge(workers[0], again)
        again.refresh_from_db()
        assert again.accepted == 0  # no counter that was taken is free again
        floor = bytes(InvocationCounter.objects.get(key=case.meter.row()).session_floor)
        assert all(context > floor for context in case.meter.kept())
    return bool(came)


@pytest.mark.parametrize("act", ["verify", "compromise"])
@pytest.mark.parametrize("scene", [begins, begins_apart, goes_on, goes_on_beside_a_gap, is_full])
def test_between_any_two_statements(scene: Callable[[SessionDevice], Case], act: str, settings: Settings) -> None:
    settings.SESSIONS_KEPT = KEPT
    concentrators = ConcentratorFactory.create_batch(2)
    workers, faults = [Worker(), Worker()], Faults()
    with faults.installed():
        statement = 0
        while True:
            for worker in workers:
                worker.look_first(False)
            if not beside(scene(of_session(concentrators[0])), concentrators, statement, act, workers, faults):
                break
            statement += 1
    assert statement >= 8
