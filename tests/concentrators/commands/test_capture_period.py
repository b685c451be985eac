"""Another interval length of a meter: told, confirmed, entered; and what frames, gaps and totals make of it."""

from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from concentrators.commands import capture_period, downlink, queue
from concentrators.commands.capture_period import IntervalError, LengthChange
from concentrators.ingest.worker import PROCESS
from concentrators.models import Command, CommandState, Concentrator
from concentrators.totals import totals
from concentrators.totals.queries import TotalSelection
from concentrators.totals.queries import totals as total_rows
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from meters.models import EarlierLength, Reading, Register
from meters.readings.gaps import Gap, gap_report
from tests.builders import senml_payload
from tests.concentrators.fleet import INTERVAL, NOW, START, Device, commission, judged
from tests.concentrators.obedient import Receiver, answer
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
HALF_HOUR = timedelta(minutes=30)
SINCE = NOW - timedelta(hours=6)  # from here on meters of these tests measure in another length
TOLD = NOW - timedelta(hours=12)


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    (device,) = commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0)])
    type(device.meter).objects.filter(pk=device.meter.pk).update(commissioned_at=START)
    device.meter.refresh_from_db()
    return device


def told(device: Device, minutes: int = 15, since: datetime = SINCE) -> Command:
    """A set-interval command that the meter's concentrator has fetched."""
    (command,) = capture_period.enqueue([device.meter], minutes, since, "tester", TOLD)
    command.state = CommandState.DELIVERED
    command.expires_at = NOW + timedelta(days=1)
    command.save()
    return command


def frame(device: Device, at: datetime, wh: int = 100) -> bytes:
    return device.seal(senml_payload({INTERVAL: wh}, int(at.timestamp())))


def lengths(device: Device) -> dict[datetime, int]:
    rows = Reading.objects.filter(meter=device.meter, interval_minutes__gt=0).order_by("captured_at")
    return dict(rows.values_list("captured_at", "interval_minutes"))


def kept_totals() -> list[tuple[datetime, int, int, int]]:
    rows, _ = total_rows(TotalSelection(START - timedelta(days=1), NOW + timedelta(days=1)), 1000)
    return [(row.interval_start, row.interval_minutes, row.value_sum, row.meters_expected) for row in rows]


class TestTelling:
    def test_the_command_says_length_and_time(self, concentrator: Concentrator, device: Device) -> None:
        (command,) = capture_period.enqueue([device.meter], 15, NOW + 2 * HALF_HOUR, "tester", NOW)
        (offer,) = downlink.offer(concentrator.pk, 10, NOW)
        since_s = int((NOW + 2 * HALF_HOUR).timestamp())
        assert Receiver.of(device).open(offer.octets)[2] == [5, command.pk, 15, since_s]

    def test_it_is_an_hour_ahead_where_both_begin_anew_unless_somebody_says_when(self, device: Device) -> None:
        (command,) = capture_period.enqueue([device.meter], 60, None, "tester", NOW + timedelta(minutes=7))
        assert command.parameters == {"interval_minutes": 60, "from_s": int((NOW + timedelta(hours=2)).timestamp())}

    @pytest.mark.parametrize(
        ("minutes", "start", "reason"),
        [
            (30, None, "measures in 30 min already"),
            (0, None, "from 1 to 1440"),
            (1441, None, "from 1 to 1440"),
            (15, NOW - HALF_HOUR, "at a time to come"),
            (60, NOW + HALF_HOUR, f"is not such a time, {NOW + 2 * HALF_HOUR} is the next"),
        ],
    )
    def test_what_cannot_be_is_refused(self, device: Device, minutes: int, start: datetime | None, reason: str) -> None:
        with pytest.raises(IntervalError, match=reason.replace("+", r"\+")):
            capture_period.enqueue([device.meter], minutes, start, "tester", NOW)
        assert not Command.objects.exists()

    def test_one_at_a_time(self, device: Device) -> None:
        capture_period.enqueue([device.meter], 15, None, "tester", NOW)
        with pytest.raises(IntervalError, match="being told another length"):
            capture_period.enqueue([device.meter], 60, None, "tester", NOW)


class TestChange:
    def test_the_length_that_held_at_its_start_is_an_intervals(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        capture_period.change([LengthChange(device.meter.pk, 15, SINCE)], NOW)
        quarter = timedelta(minutes=15)
        late = [frame(device, SINCE - HALF_HOUR), frame(device, SINCE), frame(device, SINCE + quarter)]
        assert judged(concentrator, late) == {"accepted": 3}
        assert lengths(device) == {SINCE - HALF_HOUR: 30, SINCE: 15, SINCE + quarter: 15}
        assert judged(concentrator, [frame(device, SINCE - quarter)]) == {"registry_mismatch": 1}

    def test_it_reaches_workers_that_keep_meters_in_memory(self, concentrator: Concentrator, device: Device) -> None:
        assert judged(concentrator, [frame(device, START)]) == {"accepted": 1}
        capture_period.change([LengthChange(device.meter.pk, 10, SINCE)], NOW)
        assert judged(concentrator, [frame(device, SINCE + timedelta(minutes=10))]) == {"accepted": 1}

    def test_what_was_taken_for_the_old_length_moves_with_its_totals(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        (other,) = commission(1, concentrator)
        starts = [SINCE - HALF_HOUR, SINCE, SINCE + HALF_HOUR]
        judged(concentrator, [frame(one, at) for one in (device, other) for at in starts])
        capture_period.change([LengthChange(device.meter.pk, 15, SINCE)], NOW)
        assert lengths(device) == {starts[0]: 30, starts[1]: 15, starts[2]: 15}
        assert kept_totals() == [
            (starts[0], 30, 200, 1),  # the other one was commissioned just now
            (starts[1], 15, 100, 1),
            (starts[1], 30, 100, 0),
            (starts[2], 15, 100, 1),
            (starts[2], 30, 100, 0),
        ]
        assert totals.compare(START, NOW) == []

    def test_gaps_are_in_the_length_of_their_time(self, concentrator: Concentrator, device: Device) -> None:
        register = Register.objects.get(obis_code=INTERVAL)
        capture_period.change(
            [
                LengthChange(device.meter.pk, 15, SINCE),
            ],
            NOW,
        )
        device.meter.refresh_from_db()
        end = SINCE + HALF_HOUR
        assert gap_report(device.meter, register, SINCE - HALF_HOUR, end, NOW).gaps == [
            Gap(SINCE - HALF_HOUR, SINCE, 1),
            Gap(SINCE, end, 2),
        ]
        judged(concentrator, [frame(device, SINCE - HALF_HOUR), frame(device, SINCE)])
        report = gap_report(device.meter, register, SINCE - HALF_HOUR, end, NOW)
        (gap,) = report.gaps
        assert (gap.start, gap.interval_minutes, report.expected, report.interval_minutes) == (
            SINCE + timedelta(minutes=15),
            15,
            3,
            15,
        )

    def test_changes_follow_one_another(self, device: Device) -> None:
        capture_period.change([LengthChange(device.meter.pk, 15, SINCE)], NOW)
        capture_period.change([LengthChange(device.meter.pk, 60, SINCE + 2 * HALF_HOUR)], NOW)
        rows = EarlierLength.objects.order_by("valid_to").values_list("interval_minutes", "valid_from", "valid_to")
        assert list(rows) == [(30, None, SINCE), (15, SINCE, SINCE + 2 * HALF_HOUR)]
        with pytest.raises(IntervalError, match="changes at"):
            capture_period.change([LengthChange(device.meter.pk, 30, SINCE)], NOW)

    def test_the_database_holds_one_length_at_a_time(self, device: Device) -> None:
        capture_period.change([LengthChange(device.meter.pk, 15, SINCE)], NOW)
        with pytest.raises(IntegrityError, match="earlier_length_one_at_a_time"), transaction.atomic():
            EarlierLength.objects.create(meter=device.meter, interval_minutes=60, valid_to=SINCE + HALF_HOUR)

    def test_before_its_commissioning_a_meter_has_no_length(self, device: Device) -> None:
        capture_period.change([LengthChange(device.meter.pk, 15, START)], NOW)
        assert not EarlierLength.objects.exists()
        device.meter.refresh_from_db()
        assert device.meter.interval_minutes == 15

    def test_queries_do_not_grow_with_the_number_of_meters(self, concentrator: Concentrator) -> None:
        found = []
        for number in (1, 20):
            devices = commission(number, concentrator)
            with counting() as statements:
                capture_period.change([LengthChange(device.meter.pk, 15, SINCE) for device in devices], NOW)
            found.append(len(statements))
        assert found[0] == found[1]


class TestConfirming:
    def confirm(self, concentrator: Concentrator, device: Device, command: Command, *, done: bool = True) -> None:
        said = answer(device, command.pk, int(TOLD.timestamp()), done=done)
        assert judged(concentrator, [said]) == {"accepted": 1}

    def test_the_meters_answer_puts_it_into_effect_from_the_time_it_was_told(
        self, concentrator: Concentrator, device: Device
    ) -> None:
        command = told(device)
        assert capture_period.enter_confirmed(NOW) == 0
        self.confirm(concentrator, device, command)
        assert capture_period.enter_confirmed(NOW) == 1
        assert capture_period.enter_confirmed(NOW) == 0
        device.meter.refresh_from_db()
        command.refresh_from_db()
        assert (device.meter.interval_minutes, command.state) == (15, CommandState.DONE)
        assert EarlierLength.objects.get().valid_to == SINCE

    def test_a_refusal_changes_nothing(self, concentrator: Concentrator, device: Device) -> None:
        self.confirm(concentrator, device, told(device), done=False)
        assert capture_period.enter_confirmed(NOW) == 0
        device.meter.refresh_from_db()
        assert device.meter.interval_minutes == 30

    @pytest.mark.parametrize("answers", [True, False])
    def test_frames_that_come_before_the_answer_are_taken_and_end_up_right(
        self, concentrator: Concentrator, device: Device, answers: bool
    ) -> None:
        """The outage of a concentrator lasted past the change: all of it comes at once, the answer last or lost."""
        command = told(device)
        starts = [SINCE - HALF_HOUR, *(SINCE + k * timedelta(minutes=15) for k in range(4))]
        assert judged(concentrator, [frame(device, at) for at in starts]) == {"accepted": 5}
        if answers:
            self.confirm(concentrator, device, command)
        assert capture_period.enter_confirmed(NOW) == 1
        assert lengths(device) == {at: 30 if at < SINCE else 15 for at in starts}
        assert [row[:2] for row in kept_totals()] == [(at, 30 if at < SINCE else 15) for at in starts]
        assert totals.compare(START, NOW) == []
        command.refresh_from_db()
        assert command.state == CommandState.DONE

    def test_nothing_off_the_grid_is_taken_before_the_time(self, concentrator: Concentrator, device: Device) -> None:
        told(device)
        early = frame(device, SINCE - timedelta(minutes=15))
        assert judged(concentrator, [early]) == {"registry_mismatch": 1}

    def test_an_expired_command_still_may_be_confirmed(self, concentrator: Concentrator, device: Device) -> None:
        command = told(device)
        assert queue.expire(NOW + timedelta(days=2)) == 1
        self.confirm(concentrator, device, command)
        assert capture_period.enter_confirmed(NOW) == 1

    def test_a_change_by_hand_meanwhile_stands(self, concentrator: Concentrator, device: Device) -> None:
        command = told(device)
        capture_period.change([LengthChange(device.meter.pk, 60, SINCE + 2 * HALF_HOUR)], NOW)
        self.confirm(concentrator, device, command)
        assert capture_period.enter_confirmed(NOW) == 1
        device.meter.refresh_from_db()
        assert device.meter.interval_minutes == 60


def test_no_query_is_added_to_an_uplink_of_meters_that_are_known(concentrator: Concentrator, device: Device) -> None:
    found = []
    for number in range(3):
        if number == 1:
            capture_period.change([LengthChange(device.meter.pk, 15, SINCE)], NOW)
            judged(concentrator, [frame(device, SINCE)])
        with counting() as statements:
            PROCESS.meters.read({device.title})
        found.append(len(statements))
    assert found[1:] == [1, 1]
