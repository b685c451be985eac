"""Meters, concentrators, attackers and a head-end in any order, against a simple model of what ought to be true."""

import os
import time
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from concentrators.commands import rollouts
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandState
from tests.stateful.between import ORDERS, try_at_statements
from tests.stateful.ending import end_well
from tests.stateful.entities import ACCEPTED
from tests.stateful.headend import ACTOR, HeadEnd, clock
from tests.stateful.machine import Machine
from tests.stateful.restoring import back_up, restore
from tests.stateful.rules import faults, lived

LIVES = int(os.environ.get("SOAK_LIVES", "96"))  # of the long test
PARTS = 8  # so that both workers of pytest-xdist have some


def run(examples: int, steps: int, *, derandomize: bool) -> None:
    """Many lives of some steps each: always the same ones, or others every time (a failure prints how to repeat it)."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            database=None,
            deadline=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.timeout(600)
def test_any_order_of_things(surroundings: None) -> None:
    run(examples=8, steps=40, derandomize=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [pytest.param(3, id="a third"), pytest.param(1, id="all", marks=pytest.mark.soak)])
@pytest.mark.parametrize("act", ORDERS)
def test_an_act_between_any_two_statements_of_a_verification(surroundings: None, act: str, step: int) -> None:
    """Orders have most statements in common: where a third is tried in each, another third comes in the next one."""
    for number, order in enumerate(ORDERS[act]):
        site = HeadEnd(faults)
        assert try_at_statements(site, act, order, number % step, step) > 6
        states = Counter(key.state for key in site.truth.keys.values())
        assert {"compromise": states["compromised"], "retire": states["retired"]}.get(act, 4) > (3 if step == 1 else 0)


@pytest.mark.parametrize("heard", [True, False])
def test_a_key_command_is_done_where_a_restore_forgot_that_it_left(surroundings: None, heard: bool) -> None:
    """The meter has the new key; that the head-end had heard of it stands in the key journal alone, if it had."""
    site = HeadEnd(faults)
    meter = site.commission(0, site.concentrators[0], "imported")
    site.read([meter], 100)
    saved = back_up(site)
    site.give_new_key(meter)
    if heard:
        site.arrive(0, site.air, 0)
    else:
        site.air.pop()  # the answer: whatever else the meter says comes later
    restore(site, saved)
    command = Command.objects.get()
    assert command.state == (CommandState.DONE if heard else CommandState.OFFERED)
    if not heard:
        site.fetch(site.concentrators[0])
        assert site.letters[-1].octets == site.letters[-2].octets
        site.deliver(site.letters[-1])
        site.arrive(0, site.air[-1:], 0)
    command.refresh_from_db()
    assert command.state == CommandState.DONE
    end_well(site)


def test_sessions_are_given_up_in_their_order_and_forgotten_by_a_restore(surroundings: None) -> None:
    """More boots than sessions are kept, heard in any order, also after an old state was put back."""
    site = HeadEnd(faults)
    meter = site.commission(0, site.concentrators[0], "imported", "session")
    for boots in range(6):
        for wh in range(2):
            site.read([meter], wh)
        meter.boot(clock.now_s)
        if boots == 2:
            site.arrive(0, site.air[:5:2], 0)
            saved = back_up(site)
    site.arrive(0, site.air[::-3], 0)
    site.arrive(1, site.air, 1)
    meter.boot(clock.now_s + 3600)  # its clock is ahead: so is the session, and no value in it
    site.read([meter], 7)
    site.arrive(0, site.air[-1:], 0)
    site.pass_time(timedelta(hours=2))
    verdicts = Counter(verdict for uplink in site.truth.uplinks.values() for verdict in uplink.verdicts or [])
    assert verdicts.keys() >= {"accepted", "duplicate", "session_closed", "clock_skew"}
    restore(site, saved)
    site.arrive(0, site.air[:3], 1)
    end_well(site)


@pytest.mark.parametrize("keys", ["imported", "derived", "agreed"])
def test_a_meter_is_moved_from_scheme_to_scheme(surroundings: None, keys: str) -> None:
    """Its late frames stay good, and a restore to before the move leaves it where it is."""
    site = HeadEnd(faults)
    meter = site.commission(0, site.concentrators[0], keys)
    saved = back_up(site)
    for number, scheme in enumerate(("session", "mac", "sealed", "ccm")):
        site.read([meter], number)
        late = site.air[-1]
        rollouts.begin(f"to {scheme}", Selection([meter.title]), ACTOR, clock.now, 600, 10, None, None, scheme)
        rollouts.step(clock.now)
        site.learn({(None, "pending")})
        site.fetch(site.concentrators[0])
        site.deliver(site.letters[-1])
        assert meter.scheme == scheme
        site.read([meter], number)
        site.arrive(0, [site.air[-1], late], 0)
        assert site.truth.uplinks[max(site.truth.uplinks)].verdicts == [ACCEPTED, ACCEPTED]
        site.pass_time(timedelta(days=1))
    restore(site, saved)
    end_well(site)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_any_order_of_things_for_long(surroundings: None, part: int) -> None:
    lived.clear()
    started = time.monotonic()
    run(examples=max(1, LIVES // PARTS), steps=80, derandomize=False)
    seconds = time.monotonic() - started
    print(f"part {part + 1} of {PARTS}: {lived['lives']} lives of {lived['steps']} steps in all in {seconds:.0f} s")
