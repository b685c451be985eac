"""Rotation waves: whom they take, how fast they go, and what stops, resumes, cancels and ends them."""

from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from concentrators import tasks
from concentrators.commands import downlink, queue, rollouts
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import Assignment, Command, Concentrator, RotationWave, WaveMeter, WaveState
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord, DeviceKey, FleetKey
from keyvault.schemes.table import SCHEMES
from meters.models import MeterStatus
from tests.concentrators.fleet import NOW, START_S, Device, commission, judged
from tests.concentrators.obedient import Receiver, answer
from tests.concentrators.statements import counting
from tests.factories import MeterFactory
from tests.keyvault import agreeing

pytestmark = pytest.mark.django_db
ACTOR = Actor("tester", "test")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
EVERYTHING = Selection(everything=True)


def fitted(count: int, concentrator: Concentrator | None) -> list[Device]:
    devices = commission(count, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


def begun(rate: int = 6000, budget: int = 0, selection: Selection = EVERYTHING) -> RotationWave:
    return rollouts.begin("spring", selection, ACTOR, timezone.now(), rate, budget)


def chosen(selection: Selection, now: datetime = NOW) -> list[int]:
    return list(rollouts.selected(selection, now).values_list("pk", flat=True))


def fetched(concentrator: Concentrator, now: datetime | None = None) -> dict[bytes, downlink.Offer]:
    offers = downlink.offer(concentrator.pk, 100, now or timezone.now())
    return {offer.system_title: offer for offer in offers}


def state(wave: RotationWave) -> str:
    wave.refresh_from_db()
    return wave.state


class TestSelection:
    def test_everything_must_be_said(self) -> None:
        with pytest.raises(WaveError, match="say which meters"):
            rollouts.selected(Selection(), NOW)

    def test_by_title_and_concentrator(self, concentrator: Concentrator, other_concentrator: Concentrator) -> None:
        one, two = fitted(2, concentrator)
        (moved,) = fitted(1, concentrator)
        Assignment.objects.filter(meter=moved.meter).update(valid_to=NOW)
        Assignment.objects.create(meter=moved.meter, concentrator=other_concentrator, valid_from=NOW)
        assert chosen(Selection(concentrator=concentrator)) == [one.meter.pk, two.meter.pk]
        assert chosen(Selection(concentrator=other_concentrator)) == [moved.meter.pk]
        assert chosen(Selection([one.title, moved.title], concentrator)) == [one.meter.pk]
        assert len(chosen(EVERYTHING)) == 3

    def test_by_age_of_the_active_key(self, concentrator: Concentrator) -> None:
        old, young, renewed = fitted(3, concentrator)
        for device in (old, renewed):
            DeviceKey.objects.filter(pk=device.row().pk).update(created_at=NOW - timedelta(days=400))
        DeviceKey.objects.filter(pk=renewed.row().pk).update(activated_at=NOW - timedelta(days=2))
        assert chosen(Selection(older_than_days=365)) == [old.meter.pk]
        assert young.meter.pk in chosen(Selection(older_than_days=0), timezone.now())

    def test_by_compromise(self, concentrator: Concentrator) -> None:
        cut_off, replaced, _ = fitted(3, concentrator)
        epochs.compromise([cut_off.row().pk, replaced.row().pk], ACTOR)
        epochs.begin([replaced.title])
        assert chosen(Selection(compromised=True)) == [cut_off.meter.pk]

    def test_who_can_get_no_key_now_is_left_out(self, concentrator: Concentrator) -> None:
        good, suspended, without_transfer, ordered = fitted(4, concentrator)
        suspended.meter.status = MeterStatus.SUSPENDED
        suspended.meter.save()
        epochs.compromise([DeviceKey.objects.get(system_title=without_transfer.title, epoch=0).pk], ACTOR)
        queue.enqueue_keys([ordered.meter], "tester", NOW)
        assert chosen(EVERYTHING) == [good.meter.pk]
        begun()
        assert chosen(EVERYTHING) == []
        with pytest.raises(WaveError, match="no meter"):
            begun()


class TestSteps:
    def test_the_rate_is_kept_by_the_minute_and_by_the_hour(self, concentrator: Concentrator) -> None:
        fitted(9, concentrator)
        wave = begun(rate=4)
        now = timezone.now()
        assert [rollouts.step(now + n * MINUTE) for n in range(6)] == [1, 1, 1, 1, 0, 0]
        Command.objects.update(created_at=now - HOUR)
        assert rollouts.step(now + 6 * MINUTE) == 1
        assert rollouts.progress(wave) == (9, 4, {"queued": 5})

    def test_a_wave_to_its_end(self, concentrator: Concentrator) -> None:
        devices = fitted(3, concentrator)
        wave = begun()
        assert rollouts.step(timezone.now()) == 3
        assert rollouts.step(timezone.now()) == 0
        assert state(wave) == WaveState.RUNNING
        offers = fetched(concentrator)
        renewed = [Receiver.of(device).renewed(offers[device.title].octets) for device in devices]
        assert judged(concentrator, [device.frame(0) for device in renewed]) == {"accepted": 3}
        rollouts.step(timezone.now())
        assert state(wave) == WaveState.FINISHED
        assert wave.finished_at is not None
        assert rollouts.progress(wave) == (3, 0, {"done": 3})

    def test_failures_over_the_budget_stop_it(self, concentrator: Concentrator) -> None:
        devices = fitted(7, concentrator)
        wave = begun(rate=60, budget=1)
        for minute in range(3):
            rollouts.step(timezone.now() + minute * MINUTE)
        offers = fetched(concentrator, timezone.now() + 4 * MINUTE)
        refusing = [device for device in devices if device.title in offers]
        frames = [answer(d, offers[d.title].number, START_S, done=False) for d in refusing]
        assert judged(concentrator, frames[:1]) == {"accepted": 1}
        assert rollouts.step(timezone.now() + 3 * MINUTE) == 1
        assert judged(concentrator, frames[1:2]) == {"accepted": 1}
        assert rollouts.step(timezone.now() + 4 * MINUTE) == 0
        assert state(wave) == WaveState.STOPPED
        with pytest.raises(WaveError, match="its budget must be 2 or more"):
            rollouts.resume(wave.pk, ACTOR)
        assert state(wave) == WaveState.STOPPED
        rollouts.resume(wave.pk, ACTOR, failure_budget=2)
        assert rollouts.step(timezone.now() + 5 * MINUTE) == 1

    def test_expiry_counts_as_failure(self, concentrator: Concentrator) -> None:
        fitted(2, concentrator)
        wave = begun(budget=1)
        rollouts.step(timezone.now())
        queue.expire(timezone.now() + timedelta(days=8))
        rollouts.step(timezone.now())
        assert state(wave) == WaveState.STOPPED
        assert rollouts.progress(wave).failures == 2

    def test_a_meter_that_can_get_no_key_any_more_costs_no_other(self, concentrator: Concentrator) -> None:
        devices = fitted(7, concentrator)
        wave = begun()
        devices[2].meter.status = MeterStatus.RETIRED
        devices[2].meter.save()
        epochs.compromise([DeviceKey.objects.get(system_title=devices[5].title, epoch=0).pk], ACTOR)
        assert rollouts.step(timezone.now()) == 5
        assert rollouts.progress(wave) == (5, 0, {"queued": 5})

    def test_a_fleet_key_that_does_not_open_costs_no_other_wave(
        self, concentrator: Concentrator, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, other = fitted(2, concentrator)
        changed = provisioning.create_fleet_key("changed")
        FleetKey.objects.update(wrapped=b"changed")
        rollouts.begin("one", Selection([one.title]), ACTOR, timezone.now(), 60, 0, fleet_key=changed)
        rollouts.begin("other", Selection([other.title]), ACTOR, timezone.now(), 60, 0)
        assert rollouts.step(timezone.now()) == 1
        assert Command.objects.get().meter == other.meter
        assert "fleet key changed does not open" in caplog.text
        assert [wave.state for wave in RotationWave.objects.all()] == ["running"] * 2

    def test_a_meter_that_got_its_command_elsewhere_keeps_that(self, concentrator: Concentrator) -> None:
        one, other = fitted(2, concentrator)
        wave = begun()
        (command,) = queue.enqueue_keys([one.meter], "tester", timezone.now())
        assert rollouts.step(timezone.now()) == 2
        assert WaveMeter.objects.get(wave=wave, meter=one.meter).command == command
        assert Command.objects.count() == 2
        assert WaveMeter.objects.get(wave=wave, meter=other.meter).command is not None

    def test_a_step_costs_the_same_for_any_number_of_meters(self, concentrator: Concentrator) -> None:
        costs = []
        for size in (2, 60):
            fitted(size, concentrator)
            wave = begun()
            with counting() as statements:
                assert rollouts.step(timezone.now()) == size
            costs.append(len(statements))
            RotationWave.objects.filter(pk=wave.pk).update(state=WaveState.FINISHED)
        assert costs[0] == costs[1]


class TestMoves:
    def test_pause_and_resume(self, concentrator: Concentrator) -> None:
        fitted(2, concentrator)
        wave = begun(rate=60)
        rollouts.step(timezone.now())
        rollouts.pause(wave.pk, ACTOR)
        assert rollouts.step(timezone.now() + MINUTE) == 0
        with pytest.raises(WaveError, match="is paused"):
            rollouts.pause(wave.pk, ACTOR)
        rollouts.resume(wave.pk, ACTOR)
        assert rollouts.step(timezone.now() + MINUTE) == 1

    def test_cancelled_is_what_nobody_has_fetched(self, concentrator: Concentrator) -> None:
        devices = fitted(4, concentrator)
        wave = begun()
        rollouts.step(timezone.now())
        (offer,) = downlink.offer(concentrator.pk, 1, timezone.now())
        rollouts.cancel(wave.pk, ACTOR, timezone.now())
        assert rollouts.progress(wave) == (4, 0, {"cancelled": 3, "offered": 1})
        pending = DeviceKey.objects.filter(state="pending")
        assert [bytes(key.system_title) for key in pending] == [offer.system_title]
        (device,) = [device for device in devices if device.title == offer.system_title]
        renewed = Receiver.of(device).renewed(offer.octets)
        assert judged(concentrator, [renewed.frame(0)]) == {"accepted": 1}
        with pytest.raises(WaveError, match="is cancelled"):
            rollouts.resume(wave.pk, ACTOR)

    def test_every_move_is_audited(self, concentrator: Concentrator) -> None:
        fitted(1, concentrator)
        wave = begun()
        rollouts.pause(wave.pk, ACTOR)
        rollouts.resume(wave.pk, ACTOR)
        rollouts.cancel(wave.pk, ACTOR, timezone.now())
        records = AuditRecord.objects.order_by("number")
        assert [record.result for record in records] == ["begun", "paused", "running", "cancelled"]
        assert {(record.act, record.subject["wave"]) for record in records} == {("device_key.rotate", wave.pk)}

    def test_schemes_that_make_no_sense(self, concentrator: Concentrator) -> None:
        fitted(1, concentrator)
        for scheme, algorithm, why in (
            ("concentrator", None, "is not one of ccm"),
            ("mac", 10, "scheme mac has no keys for AES-CCM-16-64-128"),
            ("sealed", None, "there is no agreement key"),
        ):
            sealed = SCHEMES["ccm"]._replace(name="sealed", number=4, envelope="sealed")
            with SCHEMES.including(sealed), pytest.raises(WaveError, match=why):
                rollouts.begin("x", EVERYTHING, ACTOR, timezone.now(), 1, 0, algorithm, scheme=scheme)
        assert not RotationWave.objects.exists()

    def test_of_several_agreement_keys_one_is_named(self, concentrator: Concentrator) -> None:
        (device,) = fitted(1, concentrator)
        agreement_keys.init("hes-1", ACTOR)
        second = agreement_keys.init("hes-2", ACTOR)
        for name, why in ((None, "hes-1 and hes-2 among them"), ("hes-3", "no agreement key hes-3")):
            with pytest.raises(WaveError, match=why):
                rollouts.begin("seal", EVERYTHING, ACTOR, timezone.now(), 60, 0, scheme="sealed", agreement_key=name)
        rollouts.begin("seal", EVERYTHING, ACTOR, timezone.now(), 60, 0, scheme="sealed", agreement_key="hes-2")
        assert rollouts.step(timezone.now()) == 1
        pending = DeviceKey.objects.get(system_title=device.title, state="pending")
        assert (pending.scheme, pending.agreement_key_id) == ("sealed", second.pk)
        record = AuditRecord.objects.get(act="device_key.rotate")
        assert record.subject["agreement_key"] == "hes-2"

    def test_agreed_keys_move_to_the_agreement_key_that_is_named(self) -> None:
        device = MeterFactory.create()
        title = bytes(device.system_title)
        agreeing.provision(agreeing.pairs([title]), agreement_keys.init("hes-1", ACTOR))
        second = agreement_keys.init("hes-2", ACTOR)
        rollouts.begin("move", EVERYTHING, ACTOR, timezone.now(), 60, 0, agreement_key="hes-2")
        assert rollouts.step(timezone.now()) == 1
        pending = DeviceKey.objects.get(system_title=title, state="pending")
        assert (pending.source, pending.agreement_key_id) == ("agreed", second.pk)

    def test_numbers_that_make_no_sense(self, concentrator: Concentrator) -> None:
        fitted(1, concentrator)
        now = timezone.now()
        for name, rate, budget, algorithm in (
            ("", 1, 0, None),
            ("x" * 121, 1, 0, None),
            ("x", 0, 0, None),
            ("x", 1, -1, None),
            ("x", 1, 0, 30),
        ):
            with pytest.raises(WaveError):
                rollouts.begin(name, EVERYTHING, ACTOR, now, rate, budget, algorithm)
        with pytest.raises(WaveError, match="there is no rotation wave 99"):
            rollouts.pause(99, ACTOR)
        assert not RotationWave.objects.exists()


class TestCommandLine:
    def run(self, *arguments: Any) -> str:
        out = StringIO()
        call_command("rotate_device_keys", *map(str, arguments), stdout=out)
        return out.getvalue()

    def test_a_wave_from_begin_to_cancel(self, concentrator: Concentrator) -> None:
        one, _ = fitted(2, concentrator)
        assert self.run("status") == "There is no wave yet.\n"
        dry = self.run("begin", "--name", "spring", "--all", "--dry-run")
        assert dry == "2 meters would get a new key.\n"
        assert not RotationWave.objects.exists()
        said = self.run("begin", "--name", "spring", "--concentrator", concentrator.name, "--meter", one.title.hex())
        wave = RotationWave.objects.get()
        assert said == f"Wave {wave.pk} (spring) has begun: 1 meter.\n"
        tasks.step_rotation_waves()
        assert self.run("status", "--wave", wave.pk) == (
            f"{wave.pk} spring: running; 1 meter, 0 waiting, 1 queued; 1000 an hour, 0 of 10 failures\n"
        )
        for action, after in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
            assert self.run(action, "--wave", wave.pk) == f"Wave {wave.pk} is {after}.\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["begin", "--name", "x"], "say which meters"),
            (["begin", "--name", "x", "--all"], "no meter"),
            (["begin", "--name", "x", "--meter", "zz"], "is not 16 hex digits"),
            (["begin", "--name", "x", "--concentrator", "nobody"], "there is no concentrator nobody"),
            (["begin", "--name", "x", "--all", "--rate", 2**31], "at least 1 command an hour"),
            (["begin", "--name", "x", "--all", "--failure-budget", 2**31], "failure budget"),
            (["begin", "--name", "x", "--older-than", 10**10, "--dry-run"], "0 to 36,500 days"),
            (["begin", "--name", "x", "--older-than", -1], "0 to 36,500 days"),
            (["pause"], "name the wave"),
            (["cancel", "--wave", "7"], "there is no rotation wave 7"),
            (["status", "--wave", "7"], "there is no rotation wave 7"),
        ],
    )
    def test_mistakes_are_named(self, arguments: list[Any], sentence: str) -> None:
        with pytest.raises(CommandError, match=sentence):
            self.run(*arguments)

    @pytest.mark.parametrize("budget", [-1, 2**31])
    def test_a_budget_that_cannot_be(self, concentrator: Concentrator, budget: int) -> None:
        fitted(1, concentrator)
        wave = begun()
        rollouts.pause(wave.pk, ACTOR)
        with pytest.raises(CommandError, match="failure budget"):
            self.run("resume", "--wave", wave.pk, "--failure-budget", budget)
        assert state(wave) == "paused"

    def test_one_meter_is_moved_to_a_scheme_without_a_wave(self, concentrator: Concentrator) -> None:
        (device,) = fitted(1, concentrator)
        agreement_keys.init("hes-1", ACTOR)
        second = agreement_keys.init("hes-2", ACTOR)
        title = device.title.hex()
        with pytest.raises(CommandError, match="name one meter"):
            self.run("one")
        with pytest.raises(CommandError, match="several agreement keys"):
            self.run("one", "--meter", title, "--scheme", "sealed")
        with pytest.raises(CommandError, match="not assigned to a concentrator with a system title"):
            self.run("one", "--meter", title, "--scheme", "hop")
        assert not Command.objects.exists()
        said = self.run("one", "--meter", title, "--scheme", "sealed", "--agreement-key", "hes-2")
        assert "its key of epoch 2" in said
        pending = DeviceKey.objects.get(system_title=device.title, state="pending")
        assert (pending.scheme, pending.agreement_key_id) == ("sealed", second.pk)
        assert not RotationWave.objects.exists()
        assert AuditRecord.objects.get(act="command.set_key").subject["scheme"] == "sealed"

    def test_a_meter_of_hop_is_told_its_concentrator(self, concentrator: Concentrator) -> None:
        (device,) = fitted(1, concentrator)
        Concentrator.objects.filter(pk=concentrator.pk).update(system_title=bytes(8))
        self.run("one", "--meter", device.title.hex(), "--scheme", "hop")
        assert set(Command.objects.values_list("kind", flat=True)) == {1, 7}
