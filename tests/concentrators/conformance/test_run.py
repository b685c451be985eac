"""A conformance run is begun, interrupted and resumed; its octets go to the meter's own concentrator, and nowhere else.

The reference meter itself is tried in tests/flows/test_commands_flow.py.
"""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest
from concentrators.conformance import offers, run
from concentrators.conformance.bench import DONE, LATE, REFUSED, Answer, Bench, MismatchError, Order, Timing
from concentrators.conformance.steps import STEPS, LeftOutError, Step
from concentrators.fleet import laboratory, tokens
from concentrators.fleet.laboratory import BenchMeter, LaboratoryError
from concentrators.models import (
    CommandKind,
    Concentrator,
    ConformanceRun,
    LaboratoryOffer,
    RepeatedUplink,
    StepVerdict,
    Uplink,
)
from keyvault.audit.chain import Actor
from keyvault.cose.structures import encode_sequence
from keyvault.device_keys import bench as keys
from keyvault.device_keys.bench import BenchKeyError, Disguise
from keyvault.models import AuditRecord, DownlinkCounter
from meters.models import Meter
from tests.builders import senml_payload
from tests.concentrators import fleet
from tests.concentrators.fleet import Device
from tests.concentrators.test_hop_reports import Holder
from tests.concentrators.test_hop_reports import meters as hop_meters
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("0024befffe804ff1")
ACTOR = Actor("engineer", "test")
AT_ONCE = Timing(answer_s=0, silence_s=0, poll_s=0, hold_s=0)


@pytest.fixture(autouse=True)
def nobodys_production(settings: Settings) -> None:
    settings.IS_PRODUCTION = False


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    made = laboratory.make(BenchMeter(TITLE, concentrator, 30, "ccm"), ACTOR, timezone.now() - timedelta(days=2))
    return Device(Meter.objects.get(system_title=TITLE), made.device_key)


def begun(device: Device) -> ConformanceRun:
    return run.begin(device.meter, ACTOR, timezone.now())


def fetched(concentrator: Concentrator) -> list[bytes]:
    return [one.octets for one in offers.fetch(concentrator.pk, 20, timezone.now())]


@pytest.mark.parametrize("setting", ["IS_PRODUCTION", "REQUIRE_APPROVAL"])
def test_a_flag_in_the_database_opens_nothing_in_production(
    concentrator: Concentrator, device: Device, settings: Settings, setting: str
) -> None:
    """As of a database that was a laboratory's, or that somebody wrote to."""
    uplink = fleet.verified(concentrator, [b"\xd0\x83"])
    assert laboratory.reasons(uplink, timezone.now())
    setattr(settings, setting, True)
    with pytest.raises(LaboratoryError):
        laboratory.reasons(uplink, timezone.now())
    with pytest.raises(LaboratoryError):
        begun(device)
    assert not ConformanceRun.objects.exists()


class TestRuns:
    def test_it_does_not_begin_while_another_command_is_under_way(self, device: Device) -> None:
        """Its octets are newer than those that the run seals, which the meter would drop."""
        [command] = queue.enqueue([CommandRequest(device.meter, CommandKind.READ_NOW, {})], "tester", timezone.now())
        one = begun(device)
        with pytest.raises(LaboratoryError, match=f"has not answered command {command.pk} yet"):
            run.go_on(one, Bench(device.meter, AT_ONCE), lambda *_: None, [Step("first", "", lambda _: None)])
        assert not one.steps.exists()

    def test_it_goes_on_where_it_was_interrupted(self, device: Device) -> None:
        tried: list[str] = []

        def passes(bench: Bench) -> None:
            tried.append("passes")

        def is_interrupted(bench: Bench) -> None:
            tried.append("interrupted")
            offers.put(bench.meter, [b"octets"])
            if tried.count("interrupted") == 1:
                raise KeyboardInterrupt

        steps = [Step("first", "", passes), Step("second", "", is_interrupted)]
        one = begun(device)
        with pytest.raises(KeyboardInterrupt):
            run.go_on(one, Bench(device.meter, AT_ONCE), lambda *_: None, steps)
        assert not LaboratoryOffer.objects.exists()
        assert begun(device) == one
        run.go_on(one, Bench(device.meter, AT_ONCE), lambda *_: None, steps)
        assert tried == ["passes", "interrupted", "interrupted"]
        assert one.finished_at is not None
        assert begun(device) != one
        assert AuditRecord.objects.filter(act="laboratory.conform").count() == 2

    def test_each_verdict_is_stored_with_what_the_meter_did(self, device: Device) -> None:
        def fails(bench: Bench) -> None:
            raise MismatchError("it answers done")

        def lacks(bench: Bench) -> None:
            raise LeftOutError("no interval")

        def lacks_a_key(bench: Bench) -> None:
            raise BenchKeyError("no transfer key")

        told: list[tuple[str, str]] = []
        steps = [Step("a", "", fails), Step("b", "", lacks), Step("c", "", lacks_a_key), Step("d", "", lambda _: None)]
        one = begun(device)
        run.go_on(one, Bench(device.meter, AT_ONCE), lambda step, *rest: told.append((step.name, rest[0])), steps)
        found = dict(one.steps.values_list("name", "verdict"))
        assert found == dict(told) == {"a": "failed", "b": "left_out", "c": "left_out", "d": StepVerdict.PASSED}
        assert one.steps.get(name="a").detail == "it answers done"

    def test_anew_ends_the_one_that_is_unfinished(self, device: Device) -> None:
        first = begun(device)
        second = run.begin(device.meter, ACTOR, timezone.now(), anew=True)
        first.refresh_from_db()
        assert (first.finished_at is not None, second.pk != first.pk) == (True, True)

    def test_of_laboratory_meters_alone(self, concentrator: Concentrator) -> None:
        (other,) = fleet.commission(1, concentrator)
        with pytest.raises(LaboratoryError, match="no laboratory meter"):
            begun(other)
        with pytest.raises(CommandError, match="no laboratory meter"):
            call_command("conform", other.title.hex())
        assert not ConformanceRun.objects.exists()

    def test_a_step_that_is_not_there(self, device: Device) -> None:
        with pytest.raises(CommandError, match="no step 'fly'"):
            call_command("conform", TITLE.hex(), "--only", "fly")
        with pytest.raises(CommandError, match="name the meter"):
            call_command("conform")

    def test_the_steps_are_listed(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        call_command("conform", "--list")
        assert len(capsys.readouterr().out.splitlines()) == len(STEPS) == len({step.name for step in STEPS})


class TestOffers:
    def test_each_is_fetched_once_by_the_meters_concentrator(self, concentrator: Concentrator, device: Device) -> None:
        given = offers.put(device.meter, [b"first", b"second"])
        assert fetched(ConcentratorFactory.create()) == []
        assert fetched(concentrator) == [b"first", b"second"]
        assert fetched(concentrator) == []
        assert not offers.are_delivered(given)
        for number in given:
            assert offers.receipt(concentrator.pk, number, delivered=True, now=timezone.now())
        assert offers.are_delivered(given)

    def test_what_failed_is_offered_again(self, concentrator: Concentrator, device: Device) -> None:
        [number] = offers.put(device.meter, [b"octets"])
        assert not offers.receipt(concentrator.pk, number, delivered=True, now=timezone.now()), "not fetched yet"
        fetched(concentrator)
        assert offers.receipt(concentrator.pk, number, delivered=False, now=timezone.now())
        assert fetched(concentrator) == [b"octets"]
        other = ConcentratorFactory.create()
        assert not offers.receipt(other.pk, number, delivered=True, now=timezone.now())


class TestLoss:
    def post(self, concentrator: Concentrator, device: Device, interval: int) -> int:
        body = encode_sequence([device.frame(interval)])
        headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}
        answer = Client().post("/api/v1/uplinks", body, "application/cbor-seq", headers=headers)
        assert answer.status_code == 202
        return int(answer.json()["uplink"])

    def test_an_uplink_is_lost_on_purpose_and_the_next_is_not(self, concentrator: Concentrator, device: Device) -> None:
        bench = Bench(device.meter, AT_ONCE)
        bench.lose_next_uplink()
        assert not bench.has_lost()
        assert (self.post(concentrator, device, 0), Uplink.objects.count()) == (0, 0)
        assert bench.has_lost()
        assert self.post(concentrator, device, 1) == Uplink.objects.get().pk
        bench.lose_next_uplink()
        offers.withdraw(device.meter)
        assert self.post(concentrator, device, 2)

    @pytest.mark.parametrize("setting", ["IS_PRODUCTION", "REQUIRE_APPROVAL"])
    def test_none_is_lost_in_production_or_of_ordinary_meters(
        self, concentrator: Concentrator, device: Device, settings: Settings, setting: str
    ) -> None:
        Bench(device.meter, AT_ONCE).lose_next_uplink()
        setattr(settings, setting, True)
        assert self.post(concentrator, device, 0)
        setattr(settings, setting, False)
        Meter.objects.update(is_laboratory=False)
        assert self.post(concentrator, device, 1)


def test_records_of_a_meter_whose_concentrator_opens() -> None:
    holder = Holder()
    (hop,) = hop_meters(holder, 1)
    bench = Bench(hop.meter, AT_ONCE)
    assert (bench.is_opened_at_concentrator, bench.has_agreed_keys) == (True, False)
    assert bench.concentrator_title == holder.title
    event = senml_payload({"0-0:96.13.0": 17}, fleet.START_S, unit="count")
    fleet.post(holder.row, [holder.report(hop, wh=5), hop.seal(event)], timezone.now())
    assert [(one.name, one.value) for one in bench.records()] == [("0-0:96.13.0", 17), (fleet.INTERVAL, 5)]


class TestBench:
    def heard(self, device: Device, register: str, number: int, second: int) -> Bench:
        bench = Bench(device.meter, AT_ONCE)
        payload = senml_payload({register: number}, second, unit="count")
        fleet.post(Concentrator.objects.get(), [device.seal(payload), b"noise"], timezone.now())
        return bench

    @pytest.mark.parametrize(("group", "said"), list(enumerate((DONE, REFUSED, LATE))))
    def test_it_reads_answers_in_the_meters_frames(self, device: Device, group: int, said: str) -> None:
        bench = self.heard(device, f"0-0:96.13.{group}", 17, fleet.START_S)
        assert bench.answers(17) == [Answer(said, fleet.START_S)]
        assert bench.answers(18) == []
        assert bench.wait_for(17).second == fleet.START_S
        bench.mark()
        assert bench.answers(17) == []

    def test_an_answer_that_must_not_come(self, concentrator: Concentrator, device: Device) -> None:
        bench = Bench(device.meter, AT_ONCE)
        with pytest.raises(MismatchError, match="does not fetch commands"):
            bench.give([b"octets"])
        with pytest.raises(MismatchError, match="no answer to command 9"):
            bench.wait_for(9)
        with pytest.raises(MismatchError, match="answers done, where it has to answer refused"):
            bench.compare(Answer(DONE, 1), REFUSED)
        with pytest.raises(MismatchError, match="at second 1, not 2"):
            bench.compare(Answer(DONE, 1), DONE, 2)

    def test_no_counter_is_used_twice_whatever_is_wrong_with_the_command(self, device: Device) -> None:
        bench = Bench(device.meter, AT_ONCE)
        orders: list[Order] = [
            bench.order(2),
            bench.order(2, disguise=Disguise(another_key=True)),
            bench.order(2, disguise=Disguise(algorithm=11)),
            bench.order(2, disguise=Disguise(kid=bytes(10))),
        ]
        counters = [int.from_bytes(one.octets.split(b"\x06\x45")[1][:5], "big") for one in orders]
        assert counters == sorted(set(counters))
        assert DownlinkCounter.objects.get(key=device.row()).last == counters[-1]
        assert len({one.number for one in orders}) == 4

    def test_a_key_that_cannot_be_used(self, device: Device) -> None:
        with pytest.raises(BenchKeyError):
            keys.seal(TITLE, 9, b"\x82\x02\x01", 1, timezone.now())

    def test_the_same_octets_again_are_an_answer_again(self, concentrator: Concentrator, device: Device) -> None:
        """A meter that keeps its frames answers again with the same frame, and its concentrator posts the same body."""
        bench = Bench(device.meter, AT_ONCE)
        body = encode_sequence([device.seal(senml_payload({"0-0:96.13.0": 17}, fleet.START_S, unit="count"))])
        headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}

        def post() -> int:
            answer = Client().post("/api/v1/uplinks", body, "application/cbor-seq", headers=headers)
            assert answer.status_code == 202
            return int(answer.json()["uplink"])

        post()
        assert len(bench.answers(17)) == 1
        bench.mark()
        assert not RepeatedUplink.objects.exists()
        post()
        assert not RepeatedUplink.objects.exists(), "nobody is listening"
        offers.put(device.meter, [b"octets"])
        post()
        assert bench.answers(17) == [Answer(DONE, fleet.START_S)]
        offers.withdraw(device.meter)
        assert not RepeatedUplink.objects.exists()
