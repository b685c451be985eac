"""The queue of commands: who is offered what, when and how often; receipts, answers, expiry, cancelling."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from django.db import connection

from concentrators.commands import downlink, gap_recovery, queue
from concentrators.commands.queue import AnswerKind, CommandAnswer, CommandRequest, DownlinkError
from concentrators.models import Assignment, Command, CommandKind, CommandState, Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs, provisioning, shipment_file, shipments
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import NewKey
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.models import DeviceKey, InvocationCounter
from meters.models import MeterStatus, Register
from meters.registry import lifecycle
from tests.concentrators.fleet import HALF_HOUR_S, NOW, START, START_S, Device, commission, judged, register_id
from tests.concentrators.obedient import Receiver, answer
from tests.concentrators.scheme_devices import of_session
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory
from tests.keyvault import shipping
from tests.plans import plan_of

pytestmark = pytest.mark.django_db
LATER = timedelta(minutes=2)


def fitted(count: int, concentrator: Concentrator | None) -> list[Device]:
    """Meters in service with transfer keys."""
    devices = commission(count, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return fitted(1, concentrator)[0]


def read_now(*devices: Device) -> list[Command]:
    return queue.enqueue([CommandRequest(device.meter, CommandKind.READ_NOW, {}) for device in devices], "tester", NOW)


def new_key(*devices: Device) -> list[Command]:
    return queue.enqueue_keys([device.meter for device in devices], "tester", NOW)


def offered(concentrator: Concentrator, now: datetime = NOW, limit: int = 20) -> dict[int, bytes]:
    return {one.number: one.octets for one in downlink.offer(concentrator.pk, limit, now)}


def deliver(concentrator: Concentrator, numbers: Sequence[int], now: datetime = NOW) -> None:
    for number in numbers:
        assert downlink.receipt(concentrator.pk, number, delivered=True, now=now)


def state(command: Command) -> str:
    command.refresh_from_db()
    return command.state


class TestOffer:
    def test_a_command_is_sealed_once_and_repeated_octet_for_octet(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        first = offered(concentrator)
        assert Receiver.of(device).open(first[command.pk])[2] == [2, command.pk]
        assert offered(concentrator) == {}  # its next attempt is later
        assert offered(concentrator, NOW + LATER) == first
        command.refresh_from_db()
        assert (command.attempts, command.state, command.offered_to) == (2, CommandState.OFFERED, concentrator)
        assert command.offered_at == NOW

    def test_back_off_grows_and_is_bounded(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = queue.enqueue(
            [CommandRequest(device.meter, CommandKind.READ_NOW, {})], "tester", NOW, NOW + timedelta(days=90)
        )
        now, waits = NOW, []
        for _ in range(12):
            assert offered(concentrator, now)
            command.refresh_from_db()
            waits.append(int((command.next_attempt_at - now).total_seconds()))
            now = command.next_attempt_at
        assert waits == [60 * 2 ** min(n, 8) for n in range(12)]

    def test_the_concentrator_that_the_meter_is_assigned_to_now(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        assert offered(other_concentrator) == {}
        Assignment.objects.update(valid_to=NOW - timedelta(hours=1))
        Assignment.objects.create(
            meter=device.meter, concentrator=other_concentrator, valid_from=NOW - timedelta(hours=1)
        )
        assert offered(concentrator) == {}
        assert set(offered(other_concentrator)) == {command.pk}

    def test_not_of_a_meter_that_was_suspended_after_it_was_given(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        """Neither by its concentrator nor by one that heard it: what is sealed uses up a nonce."""
        judged(other_concentrator, [device.frame(0)])
        read_now(device)
        new_key(device)
        lifecycle.suspend(device.meter)
        for one in (concentrator, other_concentrator):
            assert offered(one) == {}
        assert not Command.objects.exclude(octets=None).exists()
        lifecycle.resume(device.meter)
        assert len(offered(concentrator)) == 2

    def test_the_concentrator_that_heard_the_meter_last(
        self, concentrator: Concentrator, other_concentrator: Concentrator
    ) -> None:
        (device,) = fitted(1, None)
        (command,) = read_now(device)
        assert judged(concentrator, [device.frame(0)], NOW - LATER) == {"accepted": 1}
        assert judged(other_concentrator, [device.frame(1)], NOW - LATER / 2) == {"accepted": 1}
        assert offered(concentrator) == {}
        assert set(offered(other_concentrator)) == {command.pk}

    def test_the_concentrator_that_heard_the_latest_of_its_sessions(
        self, concentrator: Concentrator, other_concentrator: Concentrator
    ) -> None:
        device = of_session(concentrator)
        Assignment.objects.all().delete()
        provisioning.provision_stored([NewKey(device.title, 0)])
        (command,) = read_now(device)
        booted = device.reboot()
        assert judged(concentrator, [booted.frame(0), device.frame(1)], NOW - LATER) == {"accepted": 2}
        assert set(offered(concentrator)) == {command.pk}
        assert judged(other_concentrator, [device.frame(2)], NOW - LATER / 2) == {"accepted": 1}  # it was late
        assert offered(concentrator, NOW + LATER) == {}
        assert set(offered(other_concentrator, NOW + LATER)) == {command.pk}

    def test_heard_under_a_newer_epoch_counts_more(
        self, concentrator: Concentrator, other_concentrator: Concentrator
    ) -> None:
        (device,) = fitted(1, None)
        assert judged(concentrator, [device.frame(0)], NOW - LATER) == {"accepted": 1}
        renewed = device.next_epoch(2)
        assert judged(other_concentrator, [renewed.frame(1)], NOW - LATER / 2) == {"accepted": 1}
        read_now(device)
        assert offered(concentrator) == {}
        assert len(offered(other_concentrator)) == 1

    def test_oldest_first_and_no_more_than_asked_for(self, concentrator: Concentrator) -> None:
        given = read_now(*fitted(5, concentrator))
        numbers = [command.pk for command in given]
        assert list(offered(concentrator, limit=2)) == numbers[:2]
        assert list(offered(concentrator, limit=100)) == numbers[2:]

    def test_the_next_of_a_meter_waits_until_the_one_before_was_answered(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        """The meter takes no older counter, nor answers one again: in another order the older one would be lost."""
        first, second = read_now(device) + read_now(device)
        assert list(offered(concentrator)) == [first.pk]
        deliver(concentrator, [first.pk])
        assert list(offered(concentrator, NOW + timedelta(hours=1))) == [first.pk]
        judged(concentrator, [answer(device, first.pk, START_S)])
        assert list(offered(concentrator, NOW + timedelta(hours=1))) == [second.pk]

    def test_what_has_expired_holds_up_nobody(self, concentrator: Concentrator, device: Device) -> None:
        first, second = read_now(device) + read_now(device)
        Command.objects.filter(pk=first.pk).update(expires_at=NOW + LATER)
        assert list(offered(concentrator)) == [first.pk]
        assert list(offered(concentrator, NOW + LATER)) == [second.pk]

    def test_a_key_command_does_not_wait_for_others(self, concentrator: Concentrator, device: Device) -> None:
        both = read_now(device) + new_key(device)
        assert set(offered(concentrator)) == {command.pk for command in both}

    def test_a_delivered_command_without_an_answer_comes_again(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        first = offered(concentrator)
        deliver(concentrator, [command.pk])
        assert offered(concentrator, NOW + timedelta(minutes=9)) == {}
        assert offered(concentrator, NOW + timedelta(minutes=10)) == first

    def test_and_ever_later(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        now, rests = NOW, []
        for _ in range(8):
            assert offered(concentrator, now)
            deliver(concentrator, [command.pk], now)
            command.refresh_from_db()
            rests.append(int((command.next_attempt_at - now).total_seconds()) // 60)
            now = command.next_attempt_at
        assert rests == [10, 20, 40, 80, 160, 320, 320, 320]

    def test_what_cannot_be_sealed_now_waits_and_hinders_no_other(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        epochs.compromise([device.row().pk], Actor("tester", "test"))
        (other,) = fitted(1, concentrator)
        stuck, good = read_now(device, other)
        assert set(offered(concentrator)) == {good.pk}
        assert (state(stuck), stuck.attempts) == (CommandState.QUEUED, 0)
        assert stuck.next_attempt_at > NOW

    def test_it_costs_the_same_for_any_number_of_commands(self, concentrator: Concentrator) -> None:
        costs = []
        for size in (2, 50):
            devices = fitted(size, concentrator)
            read_now(*devices)
            new_key(*devices)
            with counting() as statements:
                assert len(offered(concentrator, limit=100)) == 2 * size
            costs.append(len(statements))
        assert costs[0] == costs[1]

    def test_the_body_is_a_sequence_of_arrays(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        (offer,) = downlink.offer(concentrator.pk, 1, NOW)
        assert cbor2.loads(downlink.encode_offers([offer])) == [command.pk, device.title, offer.octets]
        assert downlink.encode_offers([]) == b""


class TestReceipts:
    def test_delivered_is_not_done(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        deliver(concentrator, [command.pk, command.pk])
        assert state(command) == CommandState.DELIVERED
        assert command.delivered_at == NOW

    def test_only_of_a_concentrator_that_fetched_it(
        self, concentrator: Concentrator, other_concentrator: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        assert not downlink.receipt(concentrator.pk, command.pk, delivered=True, now=NOW)
        offered(concentrator)
        assert not downlink.receipt(other_concentrator.pk, command.pk, delivered=True, now=NOW)
        assert state(command) == CommandState.OFFERED

    def test_one_that_comes_after_the_answer_changes_nothing(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        assert judged(concentrator, [answer(device, command.pk, START_S)]) == {"accepted": 1}
        deliver(concentrator, [command.pk])
        assert state(command) == CommandState.DONE


class TestAnswers:
    @pytest.mark.parametrize(("done", "expected"), [(True, CommandState.DONE), (False, CommandState.REFUSED)])
    def test_the_meter_has_the_last_word(
        self, concentrator: Concentrator, device: Device, done: bool, expected: CommandState
    ) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        assert judged(concentrator, [answer(device, command.pk, START_S, done=done)]) == {"accepted": 1}
        assert state(command) == expected
        assert command.ended_at is not None
        assert offered(concentrator, NOW + LATER) == {}
        judged(concentrator, [answer(device, command.pk, START_S + 1, done=not done)])
        assert state(command) == expected

    def test_another_meter_cannot_answer_for_it(self, concentrator: Concentrator, device: Device) -> None:
        (other,) = fitted(1, concentrator)
        (command,) = read_now(device)
        offered(concentrator)
        assert judged(concentrator, [answer(other, command.pk, START_S)]) == {"accepted": 1}
        assert state(command) == CommandState.OFFERED

    def test_a_forged_answer_says_nothing(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        forger = Device(device.meter, bytes(32))
        assert judged(concentrator, [answer(forger, command.pk, START_S)]) == {"tag_invalid": 1}
        assert state(command) == CommandState.OFFERED

    def test_a_late_answer_still_counts(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        assert queue.expire(NOW + timedelta(days=8)) == 1
        assert state(command) == CommandState.EXPIRED
        judged(concentrator, [answer(device, command.pk, START_S)])
        assert state(command) == CommandState.DONE

    def test_answers_cost_the_same_for_any_number(self, concentrator: Concentrator) -> None:
        costs = []
        for size in (2, 50):
            devices = fitted(size, concentrator)
            given = read_now(*devices)
            frames = [answer(device, command.pk, START_S) for device, command in zip(devices, given, strict=True)]
            with counting() as statements:
                assert judged(concentrator, frames) == {"accepted": size}
            costs.append(len(statements))
        assert costs[0] == costs[1]

    def test_numbers_that_are_none(self, concentrator: Concentrator, device: Device) -> None:
        queue.answered(
            [
                CommandAnswer(device.meter.pk, 2**62, AnswerKind.DONE),
                CommandAnswer(device.meter.pk, -5, AnswerKind.LATE),
            ],
            NOW,
        )
        frames = [answer(device, number, START_S + n) for n, number in enumerate((-5, 2**62))]
        assert judged(concentrator, frames) == {"implausible": 1, "accepted": 1}


class TestKeys:
    def test_the_first_frame_under_the_new_key_is_enough(self, concentrator: Concentrator, device: Device) -> None:
        """Every acknowledgement was lost: the concentrator never said delivered, the meter never answered."""
        (command,) = new_key(device)
        assert command.parameters == {"epoch": 2}
        renewed = Receiver.of(device).renewed(offered(concentrator)[command.pk])
        assert judged(concentrator, [renewed.frame(0)]) == {"accepted": 1}
        assert state(command) == CommandState.DONE
        assert renewed.row().state == "active"

    def test_a_retry_keeps_epoch_and_key(self, concentrator: Concentrator, device: Device) -> None:
        (first,) = new_key(device)
        assert [command.pk for command in new_key(device)] == [first.pk]
        octets = offered(concentrator)[first.pk]
        assert queue.expire(NOW + timedelta(days=8)) == 1
        (again,) = new_key(device)
        later = offered(concentrator, NOW + timedelta(days=1))
        receiver = Receiver.of(device)
        _, first_counter, fields = receiver.open(octets)
        _, counter, repeated = receiver.open(later[again.pk])
        assert repeated[2:] == fields[2:]
        assert counter > first_counter
        judged(concentrator, [receiver.renewed(octets).frame(0)])
        assert (state(first), state(again)) == (CommandState.DONE, CommandState.DONE)

    def test_a_key_that_was_compromised_meanwhile_is_not_given_out(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        (command,) = new_key(device)
        assert offered(concentrator)
        pending = DeviceKey.objects.get(system_title=device.title, epoch=2)
        epochs.compromise([pending.pk], Actor("tester", "test"))
        assert offered(concentrator, NOW + LATER) == {}
        assert state(command) == CommandState.CANCELLED
        assert new_key(device)[0].parameters == {"epoch": 3}

    def test_under_a_transfer_key_that_was_replaced_it_is_sealed_anew(
        self, concentrator: Concentrator, device: Device, tmp_path: Path
    ) -> None:
        """The meter got its new transfer key on a visit: it cannot open what went before."""
        [command] = new_key(device)
        before = offered(concentrator)[command.pk]
        replacement = secrets.token_bytes(32)
        shipment = shipment_file.read(
            shipping.shipment_file(tmp_path, [shipping.transfer_line(device.title, replacement)])
        )
        shipments.import_(shipment, TransportKey(shipping.TRANSPORT), Actor("test", "test"), replace_transfer_keys=True)
        after = offered(concentrator, NOW + LATER)[command.pk]
        assert after != before
        assert Receiver(device, replacement).open(after)[2][:3] == [CommandKind.SET_KEY, command.pk, 2]
        assert offered(concentrator, NOW + 4 * LATER)[command.pk] == after

    def test_a_key_goes_with_the_transfer_key_that_brought_it(self, concentrator: Concentrator, device: Device) -> None:
        """Whoever has that transfer key may have read the new key: the next one is another."""
        [command] = new_key(device)
        assert list(offered(concentrator)) == [command.pk]
        transfer = DeviceKey.objects.get(system_title=device.title, epoch=0)
        assert epochs.compromise([transfer.pk], Actor("test", "test")) == 2
        assert offered(concentrator, NOW + LATER) == {}
        assert state(command) == CommandState.CANCELLED
        DeviceKey.objects.filter(pk=transfer.pk).update(state="active")  # as a shipment puts another in its place
        assert new_key(device)[0].parameters["epoch"] == 3

    def test_under_an_epoch_that_was_cut_off_it_waits_for_the_next(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        [command] = read_now(device)
        assert list(offered(concentrator)) == [command.pk]
        epochs.compromise([device.row().pk], Actor("test", "test"))
        assert offered(concentrator, NOW + LATER) == {}
        provisioning.provision_stored([NewKey(device.title, 2, key := secrets.token_bytes(32))])
        again = offered(concentrator, NOW + timedelta(hours=1))[command.pk]
        renewed = Device(device.meter, key, 2)
        assert Receiver(renewed, bytes(32)).open(again)[2] == [CommandKind.READ_NOW, command.pk]

    def test_worn_keys_are_replaced_by_themselves(self, concentrator: Concentrator, device: Device) -> None:
        InvocationCounter.objects.filter(key=device.row()).update(highest=2**23, floor=2**23)
        assert queue.replace_worn_keys(10, NOW) == 1
        assert queue.replace_worn_keys(10, NOW) == 0
        command = Command.objects.get()
        assert (command.kind, command.parameters, command.created_by) == (1, {"epoch": 2}, "ami-headend")

    def test_a_worn_key_whose_command_expired_is_replaced_later(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        """With the same epoch and key: the meter may have it."""
        InvocationCounter.objects.filter(key=device.row()).update(highest=2**23, floor=2**23)
        assert queue.replace_worn_keys(10, NOW) == 1
        assert queue.expire(NOW + timedelta(days=8)) == 1
        assert queue.replace_worn_keys(10, NOW + timedelta(days=8)) == 1
        assert [command.parameters for command in Command.objects.order_by("pk")] == [{"epoch": 2}, {"epoch": 2}]

    def test_worn_keys_of_suspended_meters_hold_up_no_other(self, concentrator: Concentrator, device: Device) -> None:
        others = fitted(3, concentrator)
        for other in others:
            lifecycle.suspend(other.meter)
        InvocationCounter.objects.filter(key__epoch=1).update(highest=2**23 + 1, floor=2**23 + 1)
        InvocationCounter.objects.filter(key=device.row()).update(highest=2**23, floor=2**23)
        assert queue.replace_worn_keys(1, NOW) == 1
        assert Command.objects.get().meter_id == device.meter.pk


def test_commands_of_other_concentrators_are_not_read(concentrator: Concentrator, device: Device) -> None:
    """However many a rollout begins that no statistics know of."""
    given = read_now(device)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE concentrators_command")
    (other,) = fitted(1, ConcentratorFactory.create())
    (one,) = read_now(other)
    values = {field.attname: getattr(one, field.attname) for field in Command._meta.fields if not field.primary_key}
    Command.objects.bulk_create([Command(**values) for _ in range(3_000)])
    nodes = plan_of(downlink._DUE, [concentrator.pk, NOW, 20], is_run=True)
    read = [node for node in nodes if node.get("Relation Name") == "concentrators_command"]
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in read) <= 5 * len(given)
    assert sum(node.get("Rows Removed by Filter", 0) for node in read) == 0


class TestCancel:
    def test_what_nobody_fetched_goes_and_its_pending_key_with_it(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        given = new_key(device) + read_now(device)
        assert queue.cancel([command.pk for command in given], NOW) == 2
        assert [state(command) for command in given] == [CommandState.CANCELLED] * 2
        assert not DeviceKey.objects.filter(system_title=device.title, epoch=2).exists()
        assert offered(concentrator) == {}

    def test_what_was_fetched_goes_on(self, concentrator: Concentrator, device: Device) -> None:
        given = new_key(device) + read_now(device)
        octets = offered(concentrator)[given[0].pk]
        assert queue.cancel([command.pk for command in given], NOW) == 0
        assert judged(concentrator, [Receiver.of(device).renewed(octets).frame(0)]) == {"accepted": 1}


class TestEnqueue:
    @pytest.mark.parametrize(
        ("kind", "parameters"),
        [
            (CommandKind.SET_KEY, {}),
            (CommandKind.READ_NOW, {"x": 1}),
            (CommandKind.RESEND, {"from_s": 1}),
            (CommandKind.RESEND, {"from_s": 2, "to_s": 2}),
            (CommandKind.RESEND, {"from_s": "1", "to_s": 2}),
        ],
    )
    def test_bad_parameters(self, device: Device, kind: CommandKind, parameters: dict[str, int]) -> None:
        with pytest.raises(DownlinkError):
            queue.enqueue([CommandRequest(device.meter, kind, parameters)], "tester", NOW)

    def test_only_to_meters_in_service(self, device: Device) -> None:
        device.meter.status = MeterStatus.SUSPENDED
        for give in (read_now, new_key):
            with pytest.raises(DownlinkError, match="is suspended"):
                give(device)

    def test_no_key_without_a_transfer_key_and_then_for_none(self, concentrator: Concentrator, device: Device) -> None:
        (bare,) = commission(1, concentrator)
        with pytest.raises(EpochError, match=bare.title.hex()):
            new_key(device, bare)
        assert not Command.objects.exists()

    def test_resends_are_asked_for_by_the_gap_report(self, concentrator: Concentrator, device: Device) -> None:
        device.meter.commissioned_at = START
        device.meter.save()
        judged(concentrator, [device.frame(n) for n in range(48) if n not in (3, 4, 9)])
        register = Register.objects.get(pk=register_id("1-0:1.29.0"))
        given = gap_recovery.ask_one(device.meter, register, START, NOW, "tester", NOW)
        times = [(START_S + a * HALF_HOUR_S, START_S + b * HALF_HOUR_S) for a, b in ((3, 5), (9, 10))]
        assert [(one.parameters["from_s"], one.parameters["to_s"]) for one in given] == times
        assert gap_recovery.ask_one(device.meter, register, START, NOW, "tester", NOW) == []
        fields = Receiver.of(device).open(offered(concentrator)[given[0].pk])[2]
        assert fields == [3, given[0].pk, *times[0]]
