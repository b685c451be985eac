"""How many statements an uplink costs: the same for 10, 100 and 1,000 frames. The numbers are a reviewed baseline."""

import random
import secrets

import pytest

from concentrators import tasks
from concentrators.failures.kinds import FailureKind
from concentrators.ingest import reception, verification
from concentrators.ingest.transaction_retry import Foresight
from concentrators.ingest.worker import PROCESS
from concentrators.models import Concentrator, Uplink
from keyvault.cose.structures import encode_sequence
from keyvault.device_keys import key_rows
from keyvault.models import KeyState
from keyvault.refusals import CouponRefusal, EnrolmentRefusal
from meters.models import MeterStatus
from tests.builders import senml_payload
from tests.concentrators.fleet import ENERGY, NOW, START_S, Device, commission, outcome, post, verified
from tests.concentrators.statements import Statements
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db

SIZES = (10, 100, 1000)

RECEIVE = 1
RECEIVE_AGAIN = 2
HONEST = 12  # the last of them what the feed tells of them
HONEST_KNOWN_CIPHERS = 10
HONEST_FORESEEN = 9
SURPRISE = 16  # what a key that was cut off costs: judged in vain, and looked up
DUPLICATES = 8
# Among them: bad tags counted by key, a look for copies, whole reads of keys that are not kept
ODD = 21
CONFLICTS = 20  # a COPY that meets what stands, and all again under lock


@pytest.fixture(autouse=True)
def known_registers(db: None) -> None:
    """Registers are read once a process; here, before anything is counted."""
    PROCESS.registers.begin_batch(PROCESS.meters.look([bytes(8)])[1])


@pytest.fixture(autouse=True)
def looking(db: None) -> None:
    """Nothing foreseen is taken for true: that would save the first lot a statement, or cost it some."""
    PROCESS.foresight.failed()


def cost(statements: Statements, uplink: Uplink) -> int:
    """Statements of one verification, those of its transaction among them."""
    statements.take()
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert uplink.verified_at is not None
    return len(statements.take()) - 1  # the refresh


def test_receiving_costs_the_same_for_any_number_of_frames(concentrator: Concentrator, statements: Statements) -> None:
    for size in SIZES:
        body = encode_sequence([secrets.token_bytes(80) for _ in range(size)])
        statements.take()
        reception.receive(concentrator.pk, body, NOW, tasks.enqueue)
        assert len(statements.take()) == RECEIVE
        reception.receive(concentrator.pk, body, NOW, tasks.enqueue)
        assert len(statements.take()) == RECEIVE_AGAIN


def test_an_honest_uplink_costs_the_same_for_any_number_of_frames(
    concentrator: Concentrator, other_concentrator: Concentrator, statements: Statements
) -> None:
    for size in SIZES:
        devices = commission(size, concentrator)
        frames = [device.frame(0) for device in devices]
        assert cost(statements, post(concentrator, frames)) == HONEST
        assert cost(statements, post(concentrator, [device.frame(1) for device in devices])) == HONEST_KNOWN_CIPHERS
        assert cost(statements, post(other_concentrator, frames)) == DUPLICATES


def test_what_is_foreseen_costs_less_and_a_surprise_the_same_for_any_number_of_frames(
    concentrator: Concentrator, statements: Statements
) -> None:
    for size in SIZES:
        devices = commission(size, concentrator)
        verified(concentrator, [device.frame(0) for device in devices])
        PROCESS.foresight = Foresight()
        assert cost(statements, post(concentrator, [device.frame(1) for device in devices])) == HONEST_FORESEEN
        key_rows.set_key_state([device.row().pk for device in devices], KeyState.RETIRED)
        uplink = post(concentrator, [device.frame(2) for device in devices])
        assert cost(statements, uplink) == SURPRISE
        assert outcome(uplink) == {"key_retired": size}


def odd_frames(concentrator: Concentrator, size: int) -> tuple[list[bytes], list[bytes]]:
    """Frames to come first, and then ``size`` frames of which every kind of failure has a part."""
    parts = size // 10
    devices = commission(parts, concentrator)
    first = [device.frame(0, counter=5) for device in devices]
    suspended = commission(parts, concentrator)
    for device in suspended:
        device.meter.status = MeterStatus.SUSPENDED
        device.meter.save()
    retired = commission(parts, concentrator)
    key_rows.set_key_state([device.row().pk for device in retired], KeyState.RETIRED)
    odd: list[bytes] = []
    for n, device in enumerate(devices):
        odd += [
            b"garbage",
            Device(MeterFactory.build(), bytes(32)).frame(0),
            Device(device.meter, device.key, epoch=3).frame(0),
            retired[n].frame(0),
            Device(device.meter, device.key, alg=11).frame(0),
            Device(device.meter, bytes(32)).frame(0),
            suspended[n].frame(0),
            first[n],
            device.frame(8, counter=5),
            device.frame(0, 251, counter=1),
            device.seal(b"", counter=2),
            device.seal(senml_payload({"urn:dev:mac:00:1": 1}, START_S), counter=3),
            device.frame(3000, counter=6),
            device.seal(senml_payload({"1-0:9.9.9": 1}, START_S), counter=9),
            device.seal(senml_payload({ENERGY: 1}, START_S, unit="W"), counter=11),
            device.seal(senml_payload({ENERGY: -1}, START_S), counter=10),
            device.frame(-100_000, counter=7),
            device.frame(1, counter=8),
        ]
    random.Random(size).shuffle(odd)
    return first, odd


def test_failures_of_every_kind_cost_the_same_for_any_number_of_frames(
    concentrator: Concentrator, statements: Statements
) -> None:
    for size in SIZES:
        first, odd = odd_frames(concentrator, size)
        verified(concentrator, first)
        uplink = post(concentrator, odd)
        assert cost(statements, uplink) == ODD
        kinds = set(outcome(uplink)) - {"accepted", "duplicate"}
        elsewhere = {"parked", "replayed", "counter_too_old", "session_closed", *EnrolmentRefusal, *CouponRefusal}
        assert kinds - set(CouponRefusal) == set(FailureKind) - elsewhere - {"unknown_profile"}
        assert outcome(uplink)["accepted"] == outcome(uplink)["duplicate"] == size // 10


def test_uplinks_of_meters_that_are_spread_over_concentrators_cost_the_same(
    concentrator: Concentrator, other_concentrator: Concentrator, statements: Statements
) -> None:
    for size in SIZES:
        devices = commission(size // 2, concentrator) + commission(size // 2, other_concentrator)
        event = [devices[0].seal(senml_payload({"0-0:96.11.0": n}, START_S + n, unit="count")) for n in range(size)]
        registers = [device.seal(senml_payload({ENERGY: n}, START_S)) for n, device in enumerate(devices)]
        assert cost(statements, post(concentrator, event + registers)) == HONEST


def test_conflicts_that_only_the_copy_finds_cost_one_more_try(
    concentrator: Concentrator, statements: Statements
) -> None:
    for size in SIZES:
        devices = commission(size, concentrator)
        verified(concentrator, [device.frame(0, 250) for device in devices])
        uplink = post(concentrator, [device.frame(0, 251 - n % 2) for n, device in enumerate(devices)])
        assert cost(statements, uplink) == CONFLICTS
        assert outcome(uplink) == {"reading_conflict": size // 2, "accepted": size // 2}
