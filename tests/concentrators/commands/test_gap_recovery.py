"""Gaps become resend commands, within bounds, never twice for the same gap."""

from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings

from concentrators import tasks
from concentrators.commands import gap_recovery
from concentrators.commands.gap_recovery import GapRecoverySummary
from concentrators.commands.queue import DownlinkError
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandState, Concentrator
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.models import Meter, MeterStatus, Register
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, NOW, START, START_S, Device, commission, judged
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
EVERYTHING = Selection(everything=True)
ACTOR = Actor("tester", "test")
END = START + timedelta(hours=12)


def fleet(count: int, concentrator: Concentrator) -> list[Device]:
    devices = commission(count, concentrator)
    Meter.objects.update(commissioned_at=START)
    for device in devices:
        device.meter.refresh_from_db()
    return devices


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    """A meter of which the intervals 3, 4 and 9 of the first 24 are missing."""
    (device,) = fleet(1, concentrator)
    judged(concentrator, [device.frame(n) for n in range(24) if n not in (3, 4, 9)])
    return device


def ask(selection: Selection = EVERYTHING, end: datetime = END, *, dry_run: bool = False) -> GapRecoverySummary:
    register = Register.objects.get(obis_code=INTERVAL)
    return gap_recovery.ask(selection, register, START - timedelta(days=5), end, ACTOR, NOW, dry_run=dry_run)


def asked() -> list[tuple[int, int]]:
    """What is asked for, in intervals after START."""
    rows = Command.objects.order_by("pk").values_list("parameters", flat=True)
    return [((row["from_s"] - START_S) // HALF_HOUR_S, (row["to_s"] - START_S) // HALF_HOUR_S) for row in rows]


def test_every_gap_is_asked_for_once(device: Device) -> None:
    assert ask() == GapRecoverySummary(1, 2, 2, 0)
    assert asked() == [(3, 5), (9, 10)]
    assert ask() == GapRecoverySummary(1, 2, 0, 0)


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (CommandState.DELIVERED, False),
        (CommandState.DONE, False),
        (CommandState.REFUSED, False),
        (CommandState.EXPIRED, True),
        (CommandState.CANCELLED, True),
    ],
)
def test_what_a_meter_has_answered_is_not_asked_again_by_itself(
    device: Device, state: CommandState, again: bool
) -> None:
    ask()
    Command.objects.update(state=state)
    assert ask().commands == (2 if again else 0)


def test_a_person_may_ask_one_meter_again_for_what_it_has_answered(device: Device) -> None:
    ask()
    register = Register.objects.get(obis_code=INTERVAL)
    assert gap_recovery.ask_one(device.meter, register, START, END, "tester", NOW) == []
    Command.objects.update(state=CommandState.DONE)
    assert len(gap_recovery.ask_one(device.meter, register, START, END, "tester", NOW)) == 2


def test_of_a_gap_that_has_grown_only_the_new_part_is_asked_for(device: Device) -> None:
    ask(end=START + timedelta(hours=13))
    assert asked()[-1] == (24, 26)
    ask(end=START + timedelta(hours=14))
    assert asked()[3:] == [(26, 28)]


def test_a_meter_is_asked_so_often_a_day_and_the_oldest_gaps_first(
    concentrator: Concentrator, settings: Settings
) -> None:
    settings.RESENDS_PER_DAY = 3
    (device,) = fleet(1, concentrator)
    judged(concentrator, [device.frame(n) for n in range(0, 24, 2)])
    assert ask() == GapRecoverySummary(1, 12, 3, 9)
    assert asked() == [(1, 2), (3, 4), (5, 6)]
    Command.objects.update(created_at=NOW)
    assert ask() == GapRecoverySummary(1, 12, 0, 9)
    Command.objects.update(created_at=NOW - timedelta(days=2), state=CommandState.DONE)
    assert ask() == GapRecoverySummary(1, 12, 3, 6)
    assert asked()[3:] == [(7, 8), (9, 10), (11, 12)]


def test_only_meters_in_service_and_only_those_selected(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    here, suspended = fleet(2, concentrator)
    (there,) = fleet(1, other_concentrator)
    Meter.objects.filter(pk=suspended.meter.pk).update(status=MeterStatus.SUSPENDED)
    assert ask(Selection(concentrator=concentrator)).meters == 1
    assert set(Command.objects.values_list("meter", flat=True)) == {here.meter.pk}
    assert ask(Selection(system_titles=[there.title])).commands == 1
    with pytest.raises(DownlinkError, match="say which meters"):
        ask(Selection())


def test_asking_is_one_audited_act_and_a_dry_run_is_none(device: Device) -> None:
    assert ask(dry_run=True) == GapRecoverySummary(1, 2, 2, 0)
    assert not Command.objects.exists()
    assert not AuditRecord.objects.exists()
    ask()
    assert AuditRecord.objects.get().act == "command.resend"


def test_queries_do_not_grow_with_the_number_of_meters(concentrator: Concentrator) -> None:
    ask()  # makes the audit key
    costs = []
    for count in (2, 30):
        fleet(count, concentrator)
        with counting() as statements:
            ask()
        costs.append(len(statements))
    assert costs[0] == costs[1]


class TestSchedule:
    def test_each_meter_has_its_hour_and_gaps_their_age(self, concentrator: Concentrator, settings: Settings) -> None:
        settings.RESEND_GAPS_AFTER_S = 6 * 3600
        devices = fleet(30, concentrator)
        for hour in range(24):
            now = (NOW + timedelta(days=1)).replace(hour=hour)  # a day of which all intervals are over
            gap_recovery.ask_by_schedule(now)
            mine = {device.meter.pk for device in devices if device.meter.pk % 24 == hour}
            given = Command.objects.filter(meter__in=mine)
            assert given.count() == len(mine)
            assert all(row.parameters["to_s"] <= now.timestamp() - 6 * 3600 for row in given)
            assert all(row.created_by == "ami-headend" for row in given)
        assert Command.objects.count() == 30

    @pytest.mark.parametrize("wanted", [True, False])
    def test_it_is_off_unless_somebody_wants_it(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, wanted: bool
    ) -> None:
        settings.RESEND_GAPS = wanted
        rounds = []

        def ask_by_schedule(now: datetime) -> GapRecoverySummary:
            rounds.append(now)
            return GapRecoverySummary()

        monkeypatch.setattr(gap_recovery, "ask_by_schedule", ask_by_schedule)
        tasks.resend_gaps()
        assert len(rounds) == wanted


class TestCommand:
    def run(self, *words: str) -> str:
        out = StringIO()
        call_command("resend_gaps", *words, stdout=out, stderr=StringIO())
        return out.getvalue()

    def test_it_says_what_it_did(self, device: Device) -> None:
        said = self.run("--all", "--days", "2", "--dry-run")
        assert said.startswith("1 meter has 3 gaps: 3 resends would be queued")
        assert not Command.objects.exists()
        assert "3 resends queued, 0 put off" in self.run("--meter", device.title.hex(), "--days", "2")

    def test_a_dry_run_writes_nothing_and_tells_how_far_it_is(
        self, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("concentrators.management.commands.resend_gaps._TELL_EVERY_S", 0.0)
        said = StringIO()
        with counting() as statements:
            call_command("resend_gaps", "--all", "--dry-run", stdout=StringIO(), stderr=said)
            assert [one for one in statements if not one.startswith("SELECT") and not one.startswith("WITH")] == []
        assert "looked at 1 of 1 meters" in said.getvalue()

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ([], "say which meters"),
            (["--concentrator", "none"], "there is no concentrator none"),
            (["--meter", "x"], "is not 16 hex digits"),
            (["--all", "--days", "0"], "--days takes a number from 1"),
            (["--all", "--register", "1-0:9.9.9"], "there is no register"),
            (["--all", "--register", "1-0:1.8.0"], "is not an interval register"),
        ],
    )
    def test_bad_input_is_said(self, device: Device, words: list[str], reason: str) -> None:
        with pytest.raises(CommandError, match=reason):
            self.run(*words)
        assert not Command.objects.exists()


class TestApi:
    @pytest.fixture
    def client(self) -> Client:
        user = User.objects.create_user("operator")
        user.user_permissions.add(Permission.objects.get(codename="add_command"))
        client = Client()
        client.force_login(user)
        return client

    def test_gaps_of_a_concentrator(self, client: Client, concentrator: Concentrator, device: Device) -> None:
        body = {"concentrator": concentrator.name, "from": START.isoformat(), "to": END.isoformat()}
        response = client.post("/api/v1/resends", body, content_type="application/json")
        assert (response.status_code, response.json()) == (
            201,
            {"meters": 1, "gaps": 2, "commands": 2, "held": None, "put_off": 0},
        )
        assert AuditRecord.objects.get().actor == "operator"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"from": START.isoformat(), "to": END.isoformat()},
            {"everything": True, "from": "x", "to": END.isoformat()},
            {"everything": True, "from": END.isoformat(), "to": START.isoformat()},
            {"meters": ["zz"], "from": START.isoformat(), "to": END.isoformat()},
            {"everything": True, "from": START.isoformat(), "to": END.isoformat(), "register": "1-0:1.8.0"},
        ],
    )
    def test_bad_input_is_400(self, client: Client, device: Device, body: dict[str, object]) -> None:
        assert client.post("/api/v1/resends", body, content_type="application/json").status_code == 400
        assert not Command.objects.exists()

    def test_it_takes_a_right(self, device: Device) -> None:
        User.objects.create_user("nobody")
        client = Client()
        client.force_login(User.objects.get())
        body = {"everything": True, "from": START.isoformat(), "to": END.isoformat()}
        assert client.post("/api/v1/resends", body, content_type="application/json").status_code == 403
