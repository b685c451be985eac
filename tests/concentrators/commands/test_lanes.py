"""Which concentrator is offered a command when, clocks, answers that were lost, and the proof that a key arrived."""

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from concentrators.commands import downlink, queue
from concentrators.commands.queue import AnswerKind, CommandAnswer, CommandRequest
from concentrators.models import Assignment, Command, CommandKind, CommandState, Concentrator
from keyvault.audit.chain import Actor
from keyvault.cose.structures import parse_frame
from keyvault.device_keys import epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import CONCENTRATOR
from tests.builders import senml_payload
from tests.concentrators.commands.test_downlink import deliver, fitted, new_key, offered, read_now, state
from tests.concentrators.fleet import NOW, START_S, Device, commission, judged
from tests.concentrators.obedient import DONE, LATE, Receiver, answer

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return fitted(1, concentrator)[0]


@pytest.fixture
def overheard(device: Device, other_concentrator: Concentrator) -> Concentrator:
    """A concentrator that posted a frame of the meter, which is another one's, before that did."""
    assert judged(other_concentrator, [device.frame(0)], NOW - MINUTE) == {"accepted": 1}
    return other_concentrator


def fail(concentrator: Concentrator, command: Command, now: datetime = NOW) -> None:
    assert downlink.receipt(concentrator.pk, command.pk, delivered=False, now=now)


def with_key(concentrator: Concentrator) -> bytes:
    """Give a concentrator a system title and an active key, and return the title."""
    title = bytes.fromhex("0024befffe00c001")
    Concentrator.objects.filter(pk=concentrator.pk).update(system_title=title)
    provisioning.provision_stored([NewKey(title, 1, None, 10, CONCENTRATOR)])
    return title


class TestTwoConcentrators:
    def test_the_assigned_one_first_the_other_a_minute_later(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        assert offered(overheard) == {}
        octets = offered(concentrator)
        assert offered(overheard, NOW + MINUTE) == octets
        command.refresh_from_db()
        assert (command.offered_to, command.attempts) == (concentrator, 1)
        assert (command.offered_elsewhere_to, command.elsewhere_attempts) == (overheard, 1)

    def test_one_that_overhears_cannot_hide_a_command_from_the_assigned_one(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        now = NOW + MINUTE
        octets = offered(overheard, now)
        for _ in range(9):
            deliver(overheard, [command.pk], now)
        assert offered(concentrator, now) == octets
        deliver(concentrator, [command.pk], now)
        command.refresh_from_db()
        assert command.next_attempt_at == now + timedelta(minutes=10)
        fail(overheard, command, now)
        command.refresh_from_db()
        assert command.next_attempt_at == now + timedelta(minutes=10)

    def test_nor_take_its_receipt_from_it(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        offered(overheard, NOW + MINUTE)
        deliver(concentrator, [command.pk], NOW + MINUTE)
        assert state(command) == CommandState.DELIVERED

    def test_a_receipt_of_the_assigned_one_does_not_put_the_other_off(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        """The meter may have moved, and the registry not know it yet."""
        (command,) = read_now(device)
        octets = offered(concentrator)
        deliver(concentrator, [command.pk])
        assert offered(overheard, NOW + MINUTE) == octets

    def test_a_key_comes_over_the_assigned_one_alone_if_that_holds_keys(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        """It would drop what the meter sends under a key that came before the hop keys did."""
        with_key(concentrator)
        (command,) = new_key(device)
        (asked,) = read_now(device)
        assert offered(overheard, NOW + MINUTE).keys() == {asked.pk}
        assert offered(concentrator, NOW + MINUTE).keys() == {command.pk, asked.pk}

    @pytest.mark.parametrize("lost", ["shut out", "cut off"])
    def test_and_over_both_once_that_can_use_its_keys_no_more(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device, lost: str
    ) -> None:
        """It drops no frame that it does not post, and fetches no hop keys. Its meters need new keys all the same."""
        title = with_key(concentrator)
        (command,) = new_key(device)
        if lost == "shut out":
            Concentrator.objects.filter(pk=concentrator.pk).update(is_active=False)
        else:
            DeviceKey.objects.filter(system_title=title).update(state=KeyState.COMPROMISED)
        assert offered(overheard, NOW + MINUTE).keys() == {command.pk}

    def test_and_over_both_if_it_holds_none(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        (command,) = new_key(device)
        assert offered(overheard, NOW + MINUTE).keys() == {command.pk}
        assert offered(concentrator, NOW + MINUTE).keys() == {command.pk}

    def test_a_meter_of_nobody_is_for_whoever_heard_it_at_once(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        Assignment.objects.update(valid_to=NOW - timedelta(hours=1))
        (command,) = read_now(device)
        assert list(offered(overheard)) == [command.pk]
        assert offered(concentrator, NOW + MINUTE) == {}


class TestFailed:
    def test_another_that_hears_the_meter_is_asked_at_once(
        self, concentrator: Concentrator, overheard: Concentrator, device: Device
    ) -> None:
        (command,) = read_now(device)
        octets = offered(concentrator)
        assert offered(overheard) == {}
        fail(concentrator, command)
        assert offered(overheard) == octets

    def test_it_comes_again_soon_then_ever_later_and_shows(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        now, rests = NOW, []
        for _ in range(12):
            assert offered(concentrator, now)
            fail(concentrator, command, now)
            command.refresh_from_db()
            rests.append(int((command.next_attempt_at - now).total_seconds()) // 60)
            now = command.next_attempt_at
        assert rests == [1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256]
        assert (command.failures, command.state) == (12, CommandState.OFFERED)
        assert command.failed_at is not None

    def test_after_delivered_it_counts_too(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        deliver(concentrator, [command.pk])
        fail(concentrator, command)
        assert list(offered(concentrator, NOW + MINUTE)) == [command.pk]

    def test_not_after_the_end(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        offered(concentrator)
        judged(concentrator, [answer(device, command.pk, START_S)])
        fail(concentrator, command)
        assert (state(command), command.failures) == (CommandState.DONE, 0)


class TestClock:
    @pytest.fixture
    def command(self, device: Device) -> Command:
        return queue.enqueue([CommandRequest(device.meter, CommandKind.SET_CLOCK, {})], "tester", NOW)[0]

    def test_each_time_it_is_fetched_the_time_is_another(
        self, concentrator: Concentrator, device: Device, command: Command
    ) -> None:
        receiver = Receiver.of(device)
        counters = []
        for minutes in (180, 181, 185, 400):
            now = NOW + timedelta(minutes=minutes)
            _, counter, fields = receiver.open(offered(concentrator, now)[command.pk])
            assert fields == [4, command.pk, int(now.timestamp())]
            counters.append(counter)
            fail(concentrator, command, now)
        assert counters == sorted(set(counters))
        assert state(command) == CommandState.OFFERED

    def test_a_meter_that_wants_to_know_how_old_it_is_gets_it_dated_at_once(
        self, concentrator: Concentrator, device: Device, command: Command
    ) -> None:
        offered(concentrator)
        deliver(concentrator, [command.pk])
        late = device.seal(senml_payload({LATE: command.pk}, int(NOW.timestamp()), unit="count"), counter=600)
        assert judged(concentrator, [late], NOW) == {"accepted": 1}
        later = timezone.now() + MINUTE  # at once, by the clock that verifies
        _, _, fields = Receiver.of(device).open(offered(concentrator, later)[command.pk])
        assert fields == [4, command.pk, int(later.timestamp()), 601]
        assert (state(command), command.late_answers) == (CommandState.OFFERED, 1)
        judged(concentrator, [answer(device, command.pk, int(NOW.timestamp()))])
        assert state(command) == CommandState.DONE

    def test_one_that_is_always_late_is_asked_ever_later(
        self, concentrator: Concentrator, device: Device, command: Command
    ) -> None:
        now, rests = NOW, []
        for _ in range(6):
            assert offered(concentrator, now)
            queue.answered([CommandAnswer(device.meter.pk, command.pk, AnswerKind.LATE)], now)
            command.refresh_from_db()
            rests.append(max(0, int((command.next_attempt_at - now).total_seconds()) // 60))
            now = max(now, command.next_attempt_at) + timedelta(seconds=1)
        assert rests == [0, 0, 0, 1, 2, 4]

    def test_late_says_nothing_of_other_commands(self, concentrator: Concentrator, device: Device) -> None:
        (reading,) = read_now(device)
        offered(concentrator)
        judged(concentrator, [answer(device, reading.pk, START_S, register=LATE)])
        assert (state(reading), reading.late_answers) == (CommandState.OFFERED, 0)


class TestLostAnswers:
    def test_no_command_that_was_done_expires_because_a_newer_one_came(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        """Its answer is lost, and the meter answers only the last command again."""
        first, second = read_now(device) + read_now(device)
        seen: dict[int, int] = {}  # counters taken, with the number of the command
        now = NOW
        for lost, rest_h in ((True, 0), (False, 6), (False, 6), (False, 6)):
            for number, octets in offered(concentrator, now).items():
                counter = parse_frame(octets).counter
                assert counter >= max(seen, default=0), "the meter would drop it, and never answer"
                seen[counter] = number
                deliver(concentrator, [number], now)
                if not lost:
                    judged(concentrator, [answer(device, number, START_S + number)], now)
            now += timedelta(hours=rest_h)
        assert (state(first), state(second)) == (CommandState.DONE, CommandState.DONE)

    def test_one_below_a_newer_counter_is_sealed_anew(self, concentrator: Concentrator, device: Device) -> None:
        """As a restore of an older backup, or the rule before this one, may leave it."""
        first, second = read_now(device) + read_now(device)
        before = offered(concentrator)[first.pk]
        Command.objects.filter(pk=first.pk).update(state=CommandState.EXPIRED)
        newer = offered(concentrator)[second.pk]
        Command.objects.filter(pk=first.pk).update(state=CommandState.DELIVERED)
        again = offered(concentrator, NOW + timedelta(hours=7))
        assert list(again) == [first.pk]
        counters = [parse_frame(octets).counter for octets in (before, newer, again[first.pk])]
        assert counters == sorted(set(counters))
        assert Receiver.of(device).open(again[first.pk])[2] == [CommandKind.READ_NOW, first.pk]

    def test_under_a_key_that_another_followed_it_is_sealed_anew(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        """The meter may have taken a command under the new key, and forgotten the old one."""
        (command,) = read_now(device)
        (key,) = new_key(device)
        before = offered(concentrator)
        renewed = Receiver.of(device).renewed(before[key.pk])
        assert judged(concentrator, [renewed.frame(0)]) == {"accepted": 1}
        after = offered(concentrator, NOW + timedelta(hours=1))
        assert Receiver(renewed, b"").open(after[command.pk])[::2] == (2, [CommandKind.READ_NOW, command.pk])


class TestKeysArrive:
    def test_an_answer_under_the_old_key_proves_nothing(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = new_key(device)
        assert judged(concentrator, [answer(device, command.pk, START_S)]) == {"accepted": 1}  # before it was fetched
        assert state(command) == CommandState.QUEUED
        octets = offered(concentrator)[command.pk]
        assert judged(concentrator, [answer(device, command.pk, START_S + 1)]) == {"accepted": 1}
        assert state(command) == CommandState.OFFERED
        renewed = Receiver.of(device).renewed(octets)
        assert judged(concentrator, [answer(renewed, command.pk, START_S + 2)]) == {"accepted": 1}
        assert state(command) == CommandState.DONE

    def test_a_meter_may_refuse_a_key(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = new_key(device)
        offered(concentrator)
        judged(concentrator, [answer(device, command.pk, START_S, done=False)])
        assert state(command) == CommandState.REFUSED

    def test_what_never_left_was_not_answered(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = read_now(device)
        assert judged(concentrator, [answer(device, command.pk, START_S)]) == {"accepted": 1}
        assert state(command) == CommandState.QUEUED

    def test_a_command_whose_key_is_there_already_is_done(self, concentrator: Concentrator, device: Device) -> None:
        """As a restore leaves it: the journal knows the frame that came, the command is open again."""
        (command,) = new_key(device)
        octets = offered(concentrator)[command.pk]
        judged(concentrator, [Receiver.of(device).renewed(octets).frame(0)])
        Command.objects.update(state=CommandState.OFFERED, ended_at=None)
        assert offered(concentrator, NOW + timedelta(hours=1)) == {}
        assert state(command) == CommandState.DONE


def test_the_algorithm_is_of_the_key_so_a_third_key_comes_as_the_second_did(
    concentrator: Concentrator, device: Device
) -> None:
    """The meter goes from algorithm 10 to 11; its transfer key stays what it was made with."""
    receiver = Receiver.of(device)
    for epoch, algorithm in ((2, 11), (3, None), (4, 10)):
        (command,) = queue.enqueue_keys([device.meter], "tester", NOW, algorithm)
        octets = offered(concentrator)[command.pk]
        assert parse_frame(octets).alg == 30
        device = receiver.renewed(octets)
        assert (device.epoch, device.alg) == (epoch, algorithm or 11)
        assert judged(concentrator, [device.frame(epoch)]) == {"accepted": 1}
        assert state(command) == CommandState.DONE
        (reading,) = read_now(device)
        octets = offered(concentrator)[reading.pk]
        assert parse_frame(octets).alg == {10: 30, 11: 31}[device.alg]
        judged(concentrator, [answer(device, reading.pk, START_S + epoch)])
        receiver = Receiver(device, receiver.transfer_key, receiver.transfer_alg)


def test_a_transfer_key_of_algorithm_11_brings_keys_of_algorithm_10(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0, algorithm=11)])
    (command,) = new_key(device)
    octets = offered(concentrator)[command.pk]
    assert parse_frame(octets).alg == 31
    assert Receiver.of(device).renewed(octets).alg == 10


def test_a_third_key_when_the_second_was_cut_off_before_it_was_heard(
    concentrator: Concentrator, device: Device
) -> None:
    """The meter has the second key, and nobody knows it; what it says under the third is taken."""
    (second,) = new_key(device)
    receiver = Receiver.of(device)
    on_second = receiver.renewed(offered(concentrator)[second.pk])
    pending = DeviceKey.objects.get(system_title=device.title, epoch=2)
    epochs.compromise([pending.pk], Actor("tester", "test"))
    assert judged(concentrator, [on_second.frame(0)]) == {"key_retired": 1}
    Command.objects.filter(pk=second.pk).update(next_attempt_at=NOW)
    assert offered(concentrator) == {}
    (third,) = new_key(device)
    on_third = receiver.renewed(offered(concentrator)[third.pk])
    assert on_third.epoch == 3
    assert judged(concentrator, [on_third.seal(senml_payload({DONE: third.pk}, START_S, unit="count"))]) == {
        "accepted": 1
    }
    assert (state(second), state(third)) == (CommandState.CANCELLED, CommandState.DONE)
