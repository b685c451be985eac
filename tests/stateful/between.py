"""What others do between two statements of a worker that verifies an uplink, and what must come of it."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings

from concentrators.ingest import verification
from concentrators.models import Concentrator
from keyvault.device_keys import agreement_cut_off, epochs
from keyvault.enrolment import authorities
from keyvault.master_key import rewrap
from keyvault.models import DeviceKey
from meters.registry import lifecycle
from tests.stateful import database
from tests.stateful.entities import ACCEPTED, Kid, Sent
from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter
from tests.stateful.ground import AGREEMENT_KEY
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
    title, epoch = case.sent.kid
    keys = DeviceKey.objects.filter(system_title=title, epoch=epoch)
    return _cutting(lambda: epochs.compromise(list(keys.values_list("pk", flat=True)), ACTOR), "compromised")


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


def _revoke(case: _Case) -> _Act:
    """The authority revokes the certificate that the frame brings, and what it enrolled is cut off with it."""
    assert case.sent.certificate is not None
    cti = case.sent.certificate.cti
    octets = case.site.revocation(cti)

    def do() -> None:
        epochs.compromise(authorities.revoke(octets, ACTOR, clock.now).key_ids, ACTOR)

    return _barring(do)


def _cut_off(case: _Case) -> _Act:
    """The version of the agreement key leaks that the certificate's meter agrees with."""
    version = case.site.agreement_key.version
    case.site.rotate_agreement_key()
    return _barring(lambda: agreement_cut_off.cut_off(AGREEMENT_KEY, version, ACTOR, clock.now))


def _barring(bar: Callable[[], object]) -> _Act:
    cutting = _cutting(bar, "compromised")

    def effect(truth: Truth) -> None:
        cutting.effect(truth)
        for what in database.barred():
            if isinstance(what, int):
                truth.vouching.cut_off.add(what)
            else:
                truth.vouching.revoked.add(what)

    return cutting._replace(effect=effect)


def _cutting(cut: Callable[[], object], state: str) -> _Act:
    def effect(truth: Truth) -> None:
        for kid, now in database.key_states().items():
            if now == state:
                truth.keys[kid].state = now

    return _Act(cut, effect, state)


_ACTS = {"verify": _verify, "compromise": _compromise, "retire": _retire, "suspend": _suspend, "rewrap": _rewrap}
ACTS = tuple(_ACTS)  # that may come between in any life
_ON_CERTIFICATES = {"revoke": _revoke, "cut off": _cut_off}
_ORDERS = {"next": "ccm", "doubted": "session", "ahead": "sealed", "late": "session"}  # and the scheme of the meters
_USUAL = tuple(_ORDERS)
ORDERS = {  # of frames, by what is tried between any two statements
    "verify": (*_USUAL, "reported", "enrols", "pushed"),
    "compromise": (*_USUAL, "reported", "pushed"),
    "retire": _USUAL,
    "suspend": (*_USUAL, "enrols"),
    "rewrap": _USUAL,
    "revoke": ("enrols",),
    "cut off": ("enrols",),
}


def verify_beside(site: HeadEnd, uplink_id: int, second: int, worker: int, statement: int, act: str) -> bool:
    """Verify an uplink while something else happens: it must come out as if one had come before the other.

    But once a key was cut off, or retired, nothing is accepted under it: not by a worker either that read it before.
    False where the verification ended before that statement.
    """
    one = {**_ACTS, **_ON_CERTIFICATES}[act](_Case(site, site.truth.uplinks[uplink_id].frames[0], second, 1 - worker))
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


def try_at_statements(site: HeadEnd, act: str, order: str, first: int = 0, step: int = 1) -> int:
    """An act at each statement of a verification in turn, every time with another meter; where none came any more.

    Of the statements some are tried where that is enough: each step-th one, from the first on.

    The frame at hand comes in one of the ORDERS: as the next one, to a worker that has its key, and takes its counter
    for true or looks first; ahead of one that the other worker has, to a worker that knows nothing; late; reported by
    a concentrator; with the certificate that enrols its meter, which the other worker has, too; or pushed by DLMS.
    """
    for statement in itertools.count(first, step):
        meter, frames = _scene(site, statement, order)
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


def _scene(site: HeadEnd, number: int, order: str) -> tuple[HonestMeter, list[Sent]]:
    """A new meter, with the frame at hand and those of the other worker."""
    if order == "enrols":
        meter = site.register_newcomer(number, site.concentrators[0], "ccm")
        site.certify(meter, timedelta(0), timedelta(days=1))
        site.allow(meter)
        sent = site.enrol(meter)
        site.read([meter], 0)
        return meter, [sent, sent, site.air[-1]]
    if order == "pushed":
        meter = site.commission_pusher(number, site.concentrators[0])
        return meter, _heard(site, meter, order)
    if order == "reported":
        site.concentrators[0] = Concentrator.objects.create(name=f"of {number}").pk
        site.hold_keys(site.concentrators[0])
    meter = site.commission(number, site.concentrators[0], "imported", _ORDERS.get(order, "hop"))
    if order == "reported":
        site.bring_home(meter)
    return meter, _heard(site, meter, order)


def _heard(site: HeadEnd, meter: HonestMeter, order: str) -> list[Sent]:
    """Two of a meter's frames; one was verified before."""
    for wh in range(3):
        site.read([meter], wh)
    frames = site.air[-3:]
    site.arrive(0, [frames.pop(-1 if order == "late" else 0)], 0)
    return frames
