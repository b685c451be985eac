"""What others do between two statements of a worker that verifies an uplink, and what must come of it."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings

from concentrators.ingest import verification
from keyvault.device_keys import epochs
from keyvault.master_key import rewrap
from keyvault.models import DeviceKey
from meters.registry import lifecycle
from tests.stateful import database
from tests.stateful.entities import ACCEPTED, Kid, Sent
from tests.stateful.faults import Fault
from tests.stateful.headend import ACTOR, Effect, HeadEnd, clock
from tests.stateful.model import Truth
from tests.stateful.rotating import finish_rotation


class _Act(NamedTuple):
    """What another does, what it makes true, and the state of keys that let no frame pass any more."""

    do: Callable[[], object]
    effect: Effect = lambda truth: None
    cuts_off: str = ""


class _Case(NamedTuple):
    """Whose uplink is verified, and which other one by the other worker."""

    site: HeadEnd
    sent: Sent
    second: int
    other_worker: int


def _verify(case: _Case) -> _Act:
    def do() -> None:
        other = case.site.workers[case.other_worker]
        with other.at_work():
            verification.verify(case.second, other.own)

    return _Act(do, case.site.judging_if_done(case.second))


def _compromise(case: _Case) -> _Act:
    kid = case.sent.kid
    ids = list(DeviceKey.objects.filter(system_title=kid[0], epoch=kid[1]).values_list("pk", flat=True))
    return _cutting(lambda: epochs.compromise(ids, ACTOR), "compromised")


def _retire(case: _Case) -> _Act:
    """The uplink's task is lost for so long that keys which are retiring now may go, where there still is time."""
    grace = timedelta(days=settings.KEY_GRACE_DAYS)
    if clock.now + grace < case.site.start:
        case.site.pass_time(grace)
    return _cutting(lambda: epochs.retire_due(clock.now), "retired")


def _suspend(case: _Case) -> _Act:
    title = case.sent.meter
    row = case.site.meter_of(title).row
    toggle = lifecycle.suspend if case.site.truth.in_service[title] else lifecycle.resume

    def effect(truth: Truth) -> None:
        row.refresh_from_db()
        truth.in_service[title] = row.status == "commissioned"

    return _Act(lambda: toggle(row), effect)


def _rewrap(case: _Case) -> _Act:
    rotation = rewrap.current()
    return _Act(lambda: rotation and rewrap.rewrap_batch(rotation.pk))


def _cutting(cut: Callable[[], object], state: str) -> _Act:
    def effect(truth: Truth) -> None:
        for kid, now in database.key_states().items():
            if now == state:
                truth.keys[kid].state = now

    return _Act(cut, effect, state)


_ACTS = {"verify": _verify, "compromise": _compromise, "retire": _retire, "suspend": _suspend, "rewrap": _rewrap}
ACTS = tuple(_ACTS)
ORDERS = {"next": "ccm", "doubted": "session", "ahead": "sealed", "late": "session"}  # and the scheme of the meters


def verify_beside(site: HeadEnd, uplink_id: int, second: int, worker: int, statement: int, act: str) -> bool:
    """Verify an uplink while something else happens: it must come out as if one had come before the other.

    But once a key was cut off, or retired, nothing is accepted under it: not by a worker either that read it before.
    False where the verification ended before that statement.
    """
    one = _ACTS[act](_Case(site, site.truth.uplinks[uplink_id].frames[0], second, 1 - worker))
    cut_off: set[Kid] = set()
    came = threading.Event()

    def between() -> None:
        came.set()
        one.do()
        if one.cuts_off and not database.verified([uplink_id]):
            cut_off.update(kid for kid, state in database.key_states().items() if state == one.cuts_off)

    site.verify(uplink_id, site.workers[worker], Fault(statement, between), [one.effect])
    uplink = site.truth.uplinks[uplink_id]
    for sent, verdict in zip(uplink.frames, uplink.verdicts or [], strict=True):
        assert verdict != ACCEPTED or sent.kid not in cut_off, f"{sent} was accepted after its key was cut off"
    return came.is_set()


def try_at_every_statement(site: HeadEnd, act: str, order: str) -> int:
    """An act at each statement of a verification in turn, every time with another meter; how many there were.

    The frame at hand comes in one of the ORDERS: as the next one, to a worker that has its key, and takes its counter
    for true or looks first; ahead of one that the other worker has, to a worker that knows nothing; or late.
    """
    for statement in itertools.count():
        meter = site.commission(statement, site.concentrators[0], "imported", ORDERS[order])
        for wh in range(3):
            site.read([meter], wh)
        frames = site.air[-3:]
        site.arrive(0, [frames.pop(-1 if order == "late" else 0)], 0)
        if order == "ahead":
            site.workers[0].restart()
            frames.reverse()
        if act == "retire":
            site.give_new_key(meter)
            site.read([meter], 3)
            site.arrive(1, [site.air[-1]], 1)
        elif act == "rewrap":
            rewrap.begin(1_000, ACTOR)
        site.workers[0].look_first(order == "doubted")
        came = verify_beside(site, site.post(0, frames[:1]), site.post(1, frames[1:]), 0, statement, act)
        for uplink_id in site.unverified():
            site.verify(uplink_id, site.workers[1])
        site.arrive(0, frames, 0)
        finish_rotation()
        if not came:
            return statement
    raise AssertionError
