"""A simulated meter goes over to another interval length, and its truth with it."""

from pathlib import Path

import cbor2
import pytest

from concentrators.simulator.factory import Factory
from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.meter import lengths_in
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.spool import Spool
from keyvault.cose.kdf import downlink_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame, split_sequence
from meters.readings.obis import COMMAND_DONE, COMMAND_REFUSED

START_S = 1_767_225_600  # 2026-01-01, midnight
SECRET = b"s" * 32
HOUR_S = 3600


@pytest.fixture
def plan() -> Plan:
    return Plan("0a0b0c0d", 5, ["one", "two"], 1, [15], START_S, None)


def order(production: Production, spool: Spool, plan: Plan, counter: int, minutes: int, from_s: int) -> None:
    """Let the command arrive and the meter act."""
    title = plan.system_title(0)
    cipher = DirectionCipher(downlink_key(Factory(plan, SECRET).device_key(0), title, 1, 30), 30)
    octets = cipher.seal(make_kid(title, 1), counter, cbor2.dumps([5, counter, minutes, from_s]))
    spool.post_mail(0, title, octets, "", 0.0)
    production.obey(production.clock_s)


def said(plan: Plan, spool: Spool) -> list[list[dict[int, object]]]:
    """What the first meter has said, in order."""
    title = plan.system_title(0)
    cipher = DirectionCipher(uplink_key(Factory(plan, SECRET).device_key(0), title, 1, 10), 10)
    packs = []
    while (batch := spool.next_batch(0, 1000, partial=True)) is not None:
        for octets in split_sequence(batch.body):
            frame = parse_frame(octets)
            if frame.kid[:8] == title:
                packs.append(cbor2.loads(cipher.open_(frame)))
        spool.keep_receipt(batch, batch.id)
    return packs


def make(plan: Plan, spool: Spool) -> Production:
    return Production(plan, HouseholdLoad(plan.seed, plan.start_s), spool, Factory(plan, SECRET))


def test_it_measures_in_the_other_length_from_the_time_it_was_told(plan: Plan, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    production = make(plan, spool)
    production.advance(4)
    order(production, spool, plan, 7, 60, START_S + 2 * HOUR_S)
    production.advance(5)
    production = make(plan, spool)  # a restart in between
    production.advance(11)
    packs = said(plan, spool)
    energies = {pack[0][-3]: pack[1][2] for pack in packs if len(pack) == 2}
    quarters = [START_S + k * 900 for k in range(8)]
    assert list(energies) == [*quarters, START_S + 2 * HOUR_S, START_S + 3 * HOUR_S, START_S + 4 * HOUR_S]
    lengths = lengths_in(spool.memories()[0].nonvolatile)
    load = HouseholdLoad(plan.seed, plan.start_s)
    truth = list(plan.intervals(load, 0, production.tick, lengths))
    assert {one.start_s: one.energy_wh for one in truth} == energies
    assert [one.minutes for one in truth] == [15] * 8 + [60] * 3
    assert plan.measured_until(0, production.tick, lengths) == START_S + 5 * HOUR_S
    assert plan.measured_until(0, production.tick + 3, lengths) == START_S + 5 * HOUR_S
    assert plan.measured_until(1, production.tick) == START_S + 5 * HOUR_S
    registers = [pack[0][2] for pack in packs if len(pack) == 2]
    assert registers == [one.register_wh for one in truth]
    assert [pack[0][0] for pack in packs if len(pack) == 1 and pack[0][2] == 7] == [COMMAND_DONE]
    order(production, spool, plan, 8, 60, START_S + 2 * HOUR_S)  # the same once more, as under a newer key
    assert [pack[0][0] for pack in said(plan, spool)] == [COMMAND_DONE]
    assert lengths_in(spool.memories()[0].nonvolatile) == lengths
    spool.close()


@pytest.mark.parametrize(
    ("minutes", "from_s"),
    [
        (20, START_S + 2 * HOUR_S),  # its clock counts quarters of an hour
        (7, START_S + 2 * HOUR_S),
        (0, START_S + 2 * HOUR_S),
        (-15, START_S + 2 * HOUR_S),
        (60, START_S + 90 * 60),  # no full hour
        (30, START_S + 30 * 60),  # over already
    ],
)
def test_what_it_cannot_do_it_refuses(minutes: int, from_s: int, plan: Plan, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    production = make(plan, spool)
    production.advance(4)
    order(production, spool, plan, 7, minutes, from_s)
    assert lengths_in(spool.memories()[0].nonvolatile) == []
    assert [pack[0][0] for pack in said(plan, spool) if len(pack) == 1 and pack[0][2] == 7] == [COMMAND_REFUSED]
    spool.close()
