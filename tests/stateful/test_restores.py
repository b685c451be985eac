"""Hop meters that move, concentrators that get new keys, and meters that enrol: each with an older state put back."""

from datetime import timedelta

import pytest

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest
from concentrators.models import CommandKind, CommandState
from tests.stateful.ending import end_well
from tests.stateful.entities import ACCEPTED
from tests.stateful.field import HonestMeter
from tests.stateful.headend import HeadEnd, clock
from tests.stateful.restoring import back_up, restore
from tests.stateful.rules import faults

YEAR = timedelta(days=365)


def last_verdicts(site: HeadEnd) -> list[str] | None:
    return site.truth.uplinks[max(site.truth.uplinks)].verdicts


class Moving:
    """A meter of scheme hop that measures at one of two concentrators."""

    def __init__(self) -> None:
        self.site = HeadEnd(faults)
        for concentrator in self.site.concentrators:
            self.site.hold_keys(concentrator)
        self.meter = self.site.commission(0, self.site.concentrators[0], "imported", "hop")
        self.site.bring_home(self.meter)

    def move_to(self, place: int) -> None:
        self.site.assign(self.meter, self.site.concentrators[place])
        self.site.bring_home(self.meter)

    def measure(self) -> None:
        """Two intervals go by, of which one report arrives now and one later."""
        for wh in (1, 2):
            self.site.read([self.meter], wh)
        for holder in self.site.holders.values():
            self.site.say_sums(holder)
        self.site.arrive(0, self.site.air[-3:], 0)


@pytest.mark.parametrize("moves_before", [0, 1])
def test_a_hop_meter_moves_there_and_back(surroundings: None, moves_before: int) -> None:
    """Late reports of either concentrator count; after a restore the meter is told where it belongs by then."""
    scene = Moving()
    scene.measure()
    for moves, place in enumerate((1, 0)):
        if moves == moves_before:
            saved = back_up(scene.site)
        scene.move_to(place)
        scene.measure()
    scene.site.arrive(1, scene.site.air, 1)
    assert {sent.title for sent in scene.site.air if sent.about} == set(scene.site.holders)
    restore(scene.site, saved)
    assert end_of_journey(scene) == list(scene.site.holders)[moves_before]
    end_well(scene.site)


def test_a_moved_meter_hears_of_its_concentrator_before_anything_else(surroundings: None) -> None:
    """Its new one would drop the answers to an older command, which are tagged for the old one under a new key."""
    scene = Moving()
    site, meter = scene.site, scene.meter
    (asked,) = queue.enqueue([CommandRequest(meter.row, CommandKind.SET_CLOCK, {})], "test", clock.now)
    site.assign(meter, site.concentrators[1])
    queue.enqueue_keys([meter.row], "test", clock.now)
    site.learn({(None, "pending")})
    site.fetch(site.concentrators[1])
    for letter in reversed(site.letters[-2:]):
        site.deliver(letter)
    assert meter.concentrator == list(site.holders)[1]
    end_well(site)
    asked.refresh_from_db()
    assert asked.state == CommandState.DONE


def end_of_journey(scene: Moving) -> bytes:
    """Where the meter ends up by the commands that come to it, whoever fetches them; nobody gives another one."""
    for _ in range(6):
        for concentrator in scene.site.concentrators:
            scene.site.fetch(concentrator)
        for letter in scene.site.letters[-2:]:
            scene.site.deliver(letter)
        scene.site.arrive(0, scene.site.air[-2:], 0)
        scene.site.pass_time(timedelta(hours=6))
    return scene.meter.concentrator


@pytest.mark.parametrize("leaked", [True, False])
def test_a_concentrator_goes_on_under_its_next_key(surroundings: None, leaked: bool) -> None:
    scene = Moving()
    scene.measure()
    site, saved = scene.site, back_up(scene.site)
    holder = site.holder_of(0)
    if leaked:
        site.compromise_holder(holder)
    site.begin_next_key(holder)
    site.fetch_next_key(holder)
    scene.measure()
    assert holder.epoch == 2
    restore(site, saved)
    assert site.truth.keys[holder.title, 1].state == ("compromised" if leaked else "retiring")
    end_well(site)


class Newcomer:
    """A meter that enrols by certificate."""

    def __init__(self) -> None:
        self.site = HeadEnd(faults)
        self.meter: HonestMeter = self.site.register_newcomer(0, self.site.concentrators[0], "ccm")

    def enrol(self, issued: timedelta = timedelta(0), lasts: timedelta = YEAR) -> list[str] | None:
        """A frame with a new certificate of the pair at hand, and a reading, arrive."""
        self.site.certify(self.meter, issued, lasts)
        sent = self.site.enrol(self.meter)
        self.site.read([self.meter], 1)
        self.site.arrive(0, [sent, self.site.air[-1]], 0)
        return last_verdicts(self.site)


def test_enrolment_step_by_step_with_a_restore_after_each(surroundings: None) -> None:
    scene = Newcomer()
    site, meter = scene.site, scene.meter
    saved = [back_up(site)]
    assert scene.enrol() == ["unknown_device", "unknown_device"]
    site.allow(meter)
    saved.append(back_up(site))
    assert scene.enrol(2 * YEAR) == ["certificate_expired", "unknown_device"]
    site.certify(meter, timedelta(0), YEAR)
    site.revoke(meter, compromise=False)
    site.enrol(meter)
    site.arrive(0, site.air[-1:], 0)
    assert last_verdicts(site) == ["certificate_revoked"]
    site.by_itself(site.workers[0])  # the first frame waited for leave
    assert site.truth.keys[meter.title, 1].state == "active"
    saved.append(back_up(site))
    site.lose_memory(meter)
    assert scene.enrol() == ["already_enrolled", "unknown_epoch"]
    site.allow(meter)
    saved.append(back_up(site))
    assert scene.enrol() == [ACCEPTED, "unknown_epoch"]
    site.by_itself(site.workers[1])
    site.cut_off_agreement_key()
    assert {key.state for key in site.truth.keys.values()} == {"compromised"}
    for one in reversed(saved):
        restore(site, one)
        site.arrive(1, site.air[-3:], 1)
    site.finish_enrolment(meter)
    clock.now += timedelta(days=1)
    end_well(site)
