"""Concentrators that hold keys: a title that is no meter's, key epochs, and what follows where they are cut off."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.utils import timezone
from pytest_django import Settings

from concentrators.commands import compromises, guard, queue
from concentrators.fleet import concentrator_keys, registry
from concentrators.journal_replay import AccessReplayer
from concentrators.models import CommandKind, CommandLimit, Concentrator, RotationWave
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.journal.segments import JournalRecord
from keyvault.master_key import census
from keyvault.models import AuditRecord, DeviceKey, InvocationCounter, KeyState
from meters.models import Meter
from meters.registry.lookup import RegistryError
from tests.concentrators.fleet import commission
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.shipping import line, shipment_file, transport_file

TITLE = bytes.fromhex("0024befffe00c001")
ACTOR = Actor("ann", "test")


def _register(how: str) -> None:
    """Register a meter with the title, in each way that rows come about."""
    match how:
        case "insert":
            MeterFactory.create(system_title=TITLE)
        case "bulk":
            Meter.objects.bulk_create([MeterFactory.build(), MeterFactory.build(system_title=TITLE)])
        case "update":
            Meter.objects.filter(pk=MeterFactory.create().pk).update(system_title=TITLE)


@pytest.mark.django_db
class TestTitle:
    def test_it_is_given_audited_and_stays_once_keys_stand_under_it(self, concentrator: Concentrator) -> None:
        concentrator_keys.give(ACTOR, concentrator, TITLE)
        concentrator_keys.give(ACTOR, concentrator, bytes(8))
        concentrator_keys.give(ACTOR, concentrator, TITLE)
        concentrator_keys.make_keys(ACTOR, concentrator, 10)
        with pytest.raises(RegistryError, match="its title stays"):
            concentrator_keys.give(ACTOR, concentrator, bytes(8))
        assert bytes(Concentrator.objects.get().system_title or b"") == TITLE
        acts = AuditRecord.objects.filter(act="concentrator.save")
        assert [act.subject["device"] for act in acts.order_by("number")] == [TITLE.hex(), "00" * 8, TITLE.hex()]

    def test_it_is_no_meters_nor_another_concentrators(self, concentrator: Concentrator) -> None:
        meter = MeterFactory.create(system_title=TITLE)
        with pytest.raises(RegistryError, match=f"is that of meter {meter}"):
            concentrator_keys.give(ACTOR, concentrator, TITLE)
        other = ConcentratorFactory.create(system_title=bytes(8))
        with pytest.raises(RegistryError, match=f"is that of concentrator {other}"):
            concentrator_keys.give(ACTOR, concentrator, bytes(8))
        (device,) = commission(1, None)
        Meter.objects.filter(pk=device.meter.pk).delete()
        with pytest.raises(RegistryError, match="has keys of scheme ccm"):
            concentrator_keys.give(ACTOR, concentrator, device.title)

    @pytest.mark.parametrize("how", ["insert", "bulk", "update"])
    def test_the_database_refuses_a_meter_with_the_title_of_a_concentrator(self, how: str) -> None:
        ConcentratorFactory.create(system_title=TITLE)
        with pytest.raises(IntegrityError, match="of a meter and of a concentrator"):
            _register(how)

    @pytest.mark.parametrize("how", ["insert", "bulk", "update"])
    def test_the_database_refuses_a_meter_under_a_title_with_keys_of_a_concentrator(self, how: str) -> None:
        provisioning.provision_stored([NewKey(TITLE, 0), NewKey(TITLE, 1, None, 10, "concentrator")])
        with pytest.raises(IntegrityError, match="is that of a meter, and has keys of a concentrator"):
            _register(how)

    def test_the_database_refuses_keys_of_a_concentrator_for_a_meter(self) -> None:
        (device,) = commission(1, None)
        with pytest.raises(IntegrityError, match="is that of a meter, and has keys of a concentrator"):
            DeviceKey.objects.filter(pk=device.row().pk).update(scheme="concentrator")

    def test_the_database_refuses_a_concentrator_with_the_title_of_a_meter(self, concentrator: Concentrator) -> None:
        MeterFactory.create(system_title=TITLE)
        with pytest.raises(IntegrityError, match="of a meter and of a concentrator"):
            Concentrator.objects.filter(pk=concentrator.pk).update(system_title=TITLE)


@pytest.mark.django_db
class TestKeys:
    @pytest.fixture
    def holder(self) -> Concentrator:
        concentrator = ConcentratorFactory.create()
        concentrator_keys.give(ACTOR, concentrator, TITLE)
        concentrator_keys.make_keys(ACTOR, concentrator, 10)
        return concentrator

    def test_the_first_keys_are_its_own_scheme_and_no_meters(self, holder: Concentrator) -> None:
        keys = DeviceKey.objects.filter(system_title=TITLE).order_by("epoch")
        assert [(key.epoch, key.scheme, key.state) for key in keys] == [
            (0, "ccm", "active"),
            (1, "concentrator", "active"),
        ]
        with pytest.raises(RegistryError, match="has keys already"):
            concentrator_keys.make_keys(ACTOR, holder, 10)

    def test_without_a_title_there_are_no_keys(self, concentrator: Concentrator) -> None:
        with pytest.raises(RegistryError, match="has no system title"):
            concentrator_keys.make_keys(ACTOR, concentrator, 10)

    def test_a_rotation_is_pending_and_brings_its_key_under_the_transfer_key(self, holder: Concentrator) -> None:
        now = timezone.now()
        assert concentrator_keys.next_key(TITLE, now) is None
        assert concentrator_keys.rotate(ACTOR, holder) == 2
        first, second = concentrator_keys.next_key(TITLE, now), concentrator_keys.next_key(TITLE, now)
        assert first is not None
        assert second not in (None, first)  # each under a counter of its own
        pending = DeviceKey.objects.get(system_title=TITLE, epoch=2)
        assert (pending.state, pending.scheme) == ("pending", "concentrator")
        assert pending.offered_at is not None  # it stays acceptable, whatever becomes of it

    def test_cut_off_keys_give_all_its_meters_new_ones(self, holder: Concentrator) -> None:
        devices = commission(3, holder)
        provisioning.provision_stored([NewKey(device.title, 0) for device in devices[:2]])
        commission(1, ConcentratorFactory.create())
        key = DeviceKey.objects.get(system_title=TITLE, epoch=1)
        cut_off = compromises.cut_off([key.pk], ACTOR, timezone.now())
        assert cut_off.keys == 1
        (wave,) = cut_off.waves
        assert set(wave.meters.values_list("meter", flat=True)) == {device.meter.pk for device in devices[:2]}
        assert compromises.cut_off([key.pk], ACTOR, timezone.now()) == (0, [], [])

    def test_they_are_cut_off_where_their_wave_cannot_begin(
        self, holder: Concentrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The account has as many held acts as one may have: its wave is refused, the cut is not."""
        devices = commission(2, holder)
        provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
        CommandLimit.objects.update_or_create(kind=CommandKind.SET_KEY, span="act", defaults={"most": 1})
        monkeypatch.setattr(guard, "HELD_ACTS_MAX", 0)
        key = DeviceKey.objects.get(system_title=TITLE, epoch=1)
        with pytest.raises(CommandError, match=r"still need new keys.*wait for a second person already") as refused:
            call_command("compromise_keys", concentrator=str(holder), yes=True)
        assert refused.value.returncode == 2
        key.refresh_from_db()
        assert key.state == "compromised"
        assert "1 key marked as compromised." in capsys.readouterr().out
        assert not RotationWave.objects.exists()

    def test_a_wave_beyond_the_limits_is_said_to_wait(
        self, holder: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        devices = commission(2, holder)
        provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
        CommandLimit.objects.update_or_create(kind=CommandKind.SET_KEY, span="act", defaults={"most": 1})
        call_command("compromise_keys", concentrator=str(holder), yes=True)
        assert "must release it on the page Approvals" in capsys.readouterr().out

    def test_of_one_without_meters_no_wave_begins(self, holder: Concentrator) -> None:
        keys = DeviceKey.objects.filter(system_title=TITLE)
        assert compromises.cut_off([key.pk for key in keys], ACTOR, timezone.now()) == (2, [], [])
        assert not RotationWave.objects.exists()


@pytest.mark.django_db
class TestCommand:
    def test_title_keys_rotation_and_compromise(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = concentrator.name
        call_command("concentrator", "title", name, title="0024BE-FFFE00-C001".replace("-", ""))
        call_command("concentrator", "keys", name, algorithm=11)
        call_command("concentrator", "rotate", name)
        call_command("compromise_keys", concentrator=name, yes=True)
        assert "Epoch 2 of concentrator" in capsys.readouterr().out
        keys = DeviceKey.objects.filter(system_title=TITLE).order_by("epoch")
        assert [(key.epoch, key.algorithm, key.state) for key in keys] == [
            (0, 11, "active"),
            (1, 11, KeyState.COMPROMISED),
            (2, 11, KeyState.COMPROMISED),
        ]

    @pytest.mark.parametrize(
        ("action", "options", "said"),
        [
            ("title", {}, "give the title"),
            ("title", {"title": "0024"}, "16 hex digits"),
            ("keys", {}, "has no system title"),
            ("rotate", {}, "has no system title"),
        ],
    )
    def test_what_cannot_be_is_a_sentence(
        self, concentrator: Concentrator, action: str, options: dict[str, str], said: str
    ) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("concentrator", action, concentrator.name, **options)

    def test_import(self, concentrator: Concentrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = tmp_path / "new.csv"
        table.write_text(f"name,system_title\nnew,{TITLE.hex()}\n{concentrator.name},{'0' * 16}\nplain,\n")
        call_command("concentrator", "import", str(table))
        call_command("concentrator", "import", str(table))
        said = capsys.readouterr().out
        assert "Registered 2 concentrators, gave 1 of those registered before a system title" in said
        assert "Registered 0 concentrators; 3 are registered already" in said
        assert bytes(Concentrator.objects.get(name="new").system_title or b"") == TITLE

        MeterFactory.create(system_title=bytes(7) + b"\1")
        table.write_text(f"name,system_title\na,{TITLE.hex()}\nb,{'0' * 15}1\n{concentrator.name},{'1' * 16}\n")
        with pytest.raises(CommandError):
            call_command("concentrator", "import", str(table))
        said = capsys.readouterr().err
        assert "is that of concentrator new" in said
        assert "is that of meter" in said
        assert "has system title 0000000000000000" in said


@pytest.mark.django_db
def test_meters_with_a_concentrators_title_are_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConcentratorFactory.create(system_title=TITLE)
    table = tmp_path / "meters.csv"
    table.write_text(f"system_title,serial_number\n{TITLE.hex()},one\n")
    with pytest.raises(CommandError):
        call_command("import_meters", str(table), no_keys=True)
    assert "is that of concentrator" in capsys.readouterr().err
    assert not Meter.objects.exists()


@pytest.mark.django_db
def test_meters_are_not_registered_under_a_title_with_keys_of_a_concentrator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may come before their concentrator has the title."""
    (device,) = commission(1, None)
    Meter.objects.filter(pk=device.meter.pk).delete()  # its keys stay, and are a meter's
    provisioning.provision_stored([NewKey(TITLE, 0), NewKey(TITLE, 1, None, 10, "concentrator")])
    table = tmp_path / "meters.csv"
    table.write_text(f"system_title,serial_number\n{device.title.hex()},one\n{TITLE.hex()},two\n")
    with pytest.raises(CommandError):
        call_command("import_meters", str(table), no_keys=True)
    said = capsys.readouterr().err
    assert f"line 3: system title {TITLE.hex()} has keys of scheme concentrator: it is a concentrator's" in said
    assert "line 2" not in said
    assert not Meter.objects.exists()


@pytest.mark.django_db
def test_a_title_is_journaled_with_its_concentrator(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr("keyvault.journal.append", lambda kind, body: said.append((kind, body)))
    concentrator.system_title = TITLE
    registry.save(concentrator, ["system_title"])
    assert said == [("concentrator", [concentrator.pk, concentrator.name, True, TITLE])]


def test_a_worn_key_of_a_concentrator_is_followed_by_another(concentrator: Concentrator, settings: Settings) -> None:
    concentrator_keys.give(ACTOR, concentrator, TITLE)
    concentrator_keys.make_keys(ACTOR, concentrator, 10)
    InvocationCounter.objects.filter(key__epoch=1).update(highest=settings.KEY_ROTATE_AT_COUNTER)
    for _ in range(2):
        assert queue.replace_worn_keys(10, timezone.now()) == 0  # meters
        assert DeviceKey.objects.get(system_title=TITLE, state=KeyState.PENDING).epoch == 2


def test_a_replay_gives_a_title_to_whom_it_was_given_last(concentrator: Concentrator) -> None:
    ghost = ConcentratorFactory.create(system_title=TITLE)  # by an act that was not committed
    (replay,) = [act for kind, act in AccessReplayer().kinds.items() if kind == "concentrator"]
    for title in (None, TITLE, TITLE):
        replay(JournalRecord(1, 0, "concentrator", [concentrator.pk, concentrator.name, True, title]))
    replay(
        JournalRecord(1, 0, "concentrator", [ghost.pk, ghost.name, True])
    )  # of a journal from before there were titles
    rows = dict(Concentrator.objects.values_list("pk", "system_title"))
    assert (bytes(rows[concentrator.pk] or b""), rows[ghost.pk]) == (TITLE, None)


def test_a_rewrap_takes_its_keys_along(concentrator: Concentrator) -> None:
    """They are rows as those of meters: the census that the rewrap goes by counts them."""
    before = sum(count.device_keys for count in census.census())
    concentrator_keys.give(ACTOR, concentrator, TITLE)
    concentrator_keys.make_keys(ACTOR, concentrator, 10)
    assert sum(count.device_keys for count in census.census()) == before + 2


@pytest.mark.django_db
class TestShipment:
    def bring(self, folder: Path, *lines: Any) -> None:
        call_command("import_keys", shipment_file(folder, lines), transport_key=transport_file(folder))

    def test_it_brings_a_concentrators_keys_and_the_next_one(self, concentrator: Concentrator, tmp_path: Path) -> None:
        self.bring(tmp_path, line(TITLE, scheme="concentrator"))  # it may come before the concentrator
        concentrator_keys.give(ACTOR, concentrator, TITLE)
        self.bring(tmp_path, line(TITLE, 2, scheme="concentrator", transfer_key=b""))
        keys = DeviceKey.objects.filter(system_title=TITLE).order_by("epoch")
        assert [(key.epoch, key.scheme, key.state) for key in keys] == [
            (0, "ccm", "active"),
            (1, "concentrator", "active"),
            (2, "concentrator", "pending"),
        ]

    def test_a_key_for_what_a_device_is_not_is_a_bad_line(
        self, concentrator: Concentrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        concentrator_keys.give(ACTOR, concentrator, TITLE)
        meter = MeterFactory.create()
        wrong = line(TITLE), line(bytes(meter.system_title), scheme="concentrator")
        with pytest.raises(CommandError):
            self.bring(tmp_path, *wrong)
        said = capsys.readouterr().err
        assert f"is that of concentrator {concentrator}, which has no key of scheme ccm" in said
        assert f"is that of meter {meter}, which has no key of scheme concentrator" in said
        assert not DeviceKey.objects.exists()
