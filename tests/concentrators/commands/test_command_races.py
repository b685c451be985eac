"""Keys and commands, run as races: threads with connections of their own on one PostgreSQL."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from pytest_django import DjangoDbBlocker

from concentrators.commands import downlink, operator, queue
from concentrators.commands.operator import OperatorOrder
from concentrators.ingest import verification
from concentrators.models import Command, CommandKind, CommandLimit, Concentrator, Uplink
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import DeviceKey
from tests.concentrators.commands.test_downlink import new_key, read_now
from tests.concentrators.fleet import NOW, Device, commission, outcome, post, verified
from tests.concentrators.ingest.test_races import _deadlocks, at_once, verify_all
from tests.concentrators.obedient import Receiver
from tests.flows import databases

ROUNDS = 6
ACTOR = Actor("tester", "test")


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


@pytest.fixture(autouse=True)
def no_deadlocks(own_database: None) -> Iterator[None]:
    before = _deadlocks()
    yield
    assert _deadlocks() == before


def fitted(count: int, concentrator: Concentrator) -> list[Device]:
    devices = commission(count, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


def fetch(concentrator: Concentrator) -> list[downlink.Offer]:
    return downlink.offer(concentrator.pk, 100, NOW)


def renewed(concentrator: Concentrator, devices: list[Device]) -> list[Device]:
    """The meters with new keys that no frame has proven yet."""
    new_key(*devices)
    octets = {offer.system_title: offer.octets for offer in fetch(concentrator)}
    return [Receiver.of(device).renewed(octets[device.title]) for device in devices]


def states(device: Device) -> dict[int, str]:
    return dict(DeviceKey.objects.filter(system_title=device.title, epoch__gt=0).values_list("epoch", "state"))


def test_each_command_is_offered_to_one(concentrator: Concentrator, other_concentrator: Concentrator) -> None:
    """Both look: one is assigned, and comes first; the other hears the meters."""
    for _ in range(ROUNDS):
        devices = fitted(20, concentrator)
        verified(other_concentrator, [device.frame(0) for device in devices])
        given = read_now(*devices) + new_key(*devices)
        offers = at_once(*[partial(fetch, one) for one in (concentrator, other_concentrator) * 2])
        offers.append(fetch(concentrator))  # what every other had locked
        fetched = [offer for some in offers for offer in some]  # type: ignore[attr-defined]
        assert sorted(offer.number for offer in fetched) == [command.pk for command in given]
        rows = Command.objects.filter(pk__in=[command.pk for command in given])
        assert {row.pk: bytes(row.octets or b"") for row in rows} == {offer.number: offer.octets for offer in fetched}
        assert len({(bytes(row.kid or b""), row.invocation_counter) for row in rows}) == len(given)


def test_one_pending_key_whoever_begins(concentrator: Concentrator) -> None:
    for _ in range(ROUNDS):
        titles = [device.title for device in fitted(10, concentrator)]
        begun = at_once(
            partial(epochs.begin, titles), partial(epochs.begin, titles[::-1]), partial(epochs.begin, titles)
        )
        assert begun == [dict.fromkeys(titles, 2)] * 3
        assert DeviceKey.objects.filter(system_title__in=titles, state="pending").count() == 10


def test_the_first_frames_of_many_meters_come_at_once_with_their_last(concentrator: Concentrator) -> None:
    for _ in range(ROUNDS):
        old = fitted(20, concentrator)
        new = renewed(concentrator, old)
        uplinks = [
            post(concentrator, [device.frame(0) for device in old]),
            post(concentrator, [device.frame(1) for device in new]),
            post(concentrator, [device.frame(2) for device in reversed(new)]),
        ]
        verify_all(uplinks)
        assert [outcome(uplink) for uplink in uplinks] == [{"accepted": 20}] * 3
        assert all(states(device) == {1: "retiring", 2: "active"} for device in old)
    assert not Command.objects.exclude(state="done").filter(kind=1, meter__in=[d.meter for d in old]).exists()


def test_a_key_compromised_while_its_first_frame_comes(concentrator: Concentrator) -> None:
    for _ in range(ROUNDS):
        old = fitted(10, concentrator)
        new = renewed(concentrator, old)
        uplink = post(concentrator, [device.frame(0) for device in new])
        ids = [device.row().pk for device in new]
        at_once(partial(verification.verify, uplink.pk), partial(epochs.compromise, ids[::2], ACTOR))
        uplink.refresh_from_db()
        assert outcome(uplink) in ({"accepted": 10}, {"accepted": 5, "key_retired": 5})
        assert {device.row().state for device in new[::2]} == {"compromised"}
        assert {device.row().state for device in new[1::2]} == {"active"}
        late = Uplink.objects.get(pk=post(concentrator, [new[0].frame(5)]).pk)
        verification.verify(late.pk)
        late.refresh_from_db()
        assert outcome(late) == {"key_retired": 1}


def test_a_command_cancelled_while_it_is_fetched(concentrator: Concentrator) -> None:
    """Fetched or cancelled, never both: a meter may hold any key that was fetched."""
    for _ in range(ROUNDS):
        devices = fitted(10, concentrator)
        numbers = [command.pk for command in new_key(*devices)]
        fetched, cancelled = at_once(partial(fetch, concentrator), partial(queue.cancel, numbers, NOW))
        offers = {offer.system_title: offer for offer in fetched}  # type: ignore[attr-defined]
        assert len(offers) + cancelled == 10  # type: ignore[operator]
        for device in devices:
            expected = {1: "active", 2: "pending"} if device.title in offers else {1: "active"}
            assert states(device) == expected


def test_a_command_cancelled_while_a_frame_under_its_key_comes(concentrator: Concentrator) -> None:
    """The meter has the key though nobody fetched the command: brought by hand, say. One of both wins, none waits."""
    for _ in range(ROUNDS):
        devices = fitted(10, concentrator)
        numbers = [command.pk for command in new_key(*devices)]
        rows = {row.pk: row for row in DeviceKey.objects.filter(system_title__in=[d.title for d in devices], epoch=2)}
        keys = {bytes(rows[key.id].system_title): key.octets for key in open_keys(list(rows))}
        new = [Device(device.meter, keys[device.title], 2) for device in devices]
        uplink = post(concentrator, [device.frame(0) for device in new])
        verify = partial(verification.verify, uplink.pk)
        _, cancelled = at_once(verify, partial(queue.cancel, numbers, NOW))
        uplink.refresh_from_db()
        assert outcome(uplink) in ({"accepted": 10}, {"unknown_epoch": 10})
        assert cancelled == (0 if outcome(uplink) == {"accepted": 10} else 10)


def test_two_requests_at_once_do_not_exceed_a_limit_together(concentrator: Concentrator) -> None:
    CommandLimit.objects.filter(kind=CommandKind.READ_NOW).delete()
    CommandLimit.objects.create(kind=CommandKind.READ_NOW, span="hour", most=3)
    order = OperatorOrder(CommandKind.READ_NOW)
    for number in range(ROUNDS):
        (device,) = fitted(1, concentrator)
        who = Actor(f"ops{number}", "test")
        given = at_once(*[partial(operator.give, device.meter, order, who, NOW)] * 6)
        states = Counter(commands[0].state for commands in given)  # type: ignore[index]
        assert states == {"queued": 3, "held": 3}
