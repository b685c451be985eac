"""Commands beyond the limits of an account are held until a second person decides."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.conditions import SEARCHES
from ami_headend.alerts.models import Rule
from ami_headend.api_tokens import tokens as api_tokens
from concentrators import tasks
from concentrators.commands import guard, operator, rollouts
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.fleet.selection import Selection
from concentrators.models import (
    Command,
    CommandKind,
    CommandLimit,
    CommandState,
    CommandTally,
    Concentrator,
    RotationWave,
    WaveState,
)
from keyvault import approvals
from keyvault.approvals import ApprovalError, Person
from keyvault.audit.chain import Actor
from keyvault.models import Approval, AuditRecord, DeviceKey
from tests.concentrators.commands.test_rollouts import fetched, fitted
from tests.concentrators.fleet import Device
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
OPS = Actor("ops", "10.0.0.1")
CLOCK = OperatorOrder(CommandKind.SET_CLOCK)


def person(name: str, *roles: str) -> Person:
    user = User.objects.create_user(name, is_staff=True)
    user.groups.set(Group.objects.filter(name__in=roles))
    return Person(user, "test")


@pytest.fixture
def ops() -> Person:
    return person("ops", "operator", "key officer")


@pytest.fixture
def ben(ops: Person) -> Person:
    return person("ben", "administrator")


@pytest.fixture
def devices(concentrator: Concentrator) -> list[Device]:
    return fitted(3, concentrator)


def limit(kind: CommandKind, span: str, most: int, account: str = "") -> None:
    CommandLimit.objects.filter(kind=kind).delete()
    CommandLimit.objects.create(kind=kind, span=span, most=most, account=account)


def give(device: Device, order: OperatorOrder = CLOCK, by: Actor = OPS) -> Command:
    (command,) = operator.give(device.meter, order, by, timezone.now())
    return command


def state(command: Command) -> str:
    command.refresh_from_db()
    return command.state


def waiting(held: Command | RotationWave) -> int:
    assert held.approval is not None
    return held.approval.pk


def released(approval: Approval | None, by: Person) -> Approval:
    assert approval is not None
    return approvals.approve(approval.pk, by, timezone.now())


class TestHeld:
    def test_what_is_beyond_the_limit_reaches_no_concentrator_until_another_releases_it(
        self, concentrator: Concentrator, devices: list[Device], ops: Person, ben: Person
    ) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 2)
        given = [give(device) for device in devices]
        assert [command.state for command in given] == ["queued", "queued", "held"]
        held = given[2]
        assert len(fetched(concentrator)) == 2
        assert "set clock commands beyond the limit of 2 an hour: 2 given, 1 more" in guard.told(held.approval)
        with pytest.raises(ApprovalError, match="another person must approve"):
            approvals.approve(waiting(held), Person(_officer(ops), "test"), timezone.now())
        released(held.approval, ben)
        assert state(held) == CommandState.QUEUED
        assert [offer.number for offer in fetched(concentrator).values()] == [held.pk]
        acts = AuditRecord.objects.order_by("number").values_list("actor", "act", "result")
        assert [*acts][-3:] == [
            ("ops", "command.set_clock", "1 held"),
            ("ben", "approval.approve", "done"),
            ("ben", "command.release", "1 command"),
        ]
        with pytest.raises(ApprovalError, match="used already"):
            released(held.approval, ben)

    def test_refused_with_a_reason_it_is_cancelled_with_its_pending_key(
        self, concentrator: Concentrator, devices: list[Device], ben: Person
    ) -> None:
        limit(CommandKind.SET_KEY, "act", 0)
        held = give(devices[0], OperatorOrder(CommandKind.SET_KEY))
        assert DeviceKey.objects.filter(state="pending").count() == 1
        refused = approvals.refuse(waiting(held), ben, timezone.now(), "nobody knows of it")
        assert (state(held), refused.refusal) == (CommandState.CANCELLED, "nobody knows of it")
        assert not DeviceKey.objects.filter(state="pending").exists()
        assert not fetched(concentrator)
        assert give(devices[0], OperatorOrder(CommandKind.SET_KEY)).state == "held"

    def test_nobody_decides_in_time(self, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        held = give(devices[0])
        Approval.objects.update(expires_at=timezone.now())
        with pytest.raises(ApprovalError, match="expired"):
            released(held.approval, ben)
        tasks.expire_commands()
        assert state(held) == CommandState.CANCELLED

    def test_a_length_whose_time_is_over_is_not_released(self, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_INTERVAL, "act", 0)
        held = give(devices[0], OperatorOrder(CommandKind.SET_INTERVAL, interval_minutes=60))
        Command.objects.update(parameters={**held.parameters, "from_s": 0})
        with pytest.raises(ApprovalError, match="is over: refuse it"):
            released(held.approval, ben)
        assert state(held) == CommandState.HELD
        assert approvals.state(Approval.objects.get(), timezone.now()) == "waiting"

    def test_what_an_account_gave_that_was_shut_out_since_is_not_released(
        self, devices: list[Device], ops: Person, ben: Person
    ) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        held = give(devices[0], by=ops.actor)
        User.objects.filter(pk=ops.account.pk).update(is_active=False)
        with pytest.raises(ApprovalError, match="ops was shut out"):
            released(held.approval, ben)
        assert state(held) == "held"
        approvals.refuse(waiting(held), ben, timezone.now(), "the account was stolen")
        assert state(held) == "cancelled"

    def test_who_gave_it_may_cancel_it(self, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        held = give(devices[0])
        assert operator.cancel(held, OPS, timezone.now())
        with pytest.raises(ApprovalError, match="was cancelled"):
            released(held.approval, ben)

    def test_an_account_cannot_fill_the_queue_of_the_second_person(self, devices: list[Device]) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        for _ in range(guard.HELD_ACTS_MAX):
            give(devices[0])
        with pytest.raises(DownlinkError, match="20 acts of ops wait for a second person already"):
            give(devices[1])
        assert Command.objects.count() == guard.HELD_ACTS_MAX


class TestCounting:
    def test_by_account_kind_and_minutes(self, devices: list[Device]) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 1)
        assert give(devices[0]).state == "queued"
        assert give(devices[1]).state == "held"
        assert give(devices[1], by=Actor("eve", "")).state == "queued"
        assert give(devices[1], OperatorOrder(CommandKind.READ_NOW)).state == "queued"
        CommandTally.objects.update(minute=timezone.now() - timedelta(hours=1))
        assert give(devices[2]).state == "queued"
        assert sum(CommandTally.objects.filter(account="ops", kind=4).values_list("number", flat=True)) == 2

    def test_a_new_name_gives_an_account_nothing_more(self, devices: list[Device], ops: Person, ben: Person) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 1)
        assert give(devices[0], by=ops.actor).state == "queued"
        User.objects.filter(pk=ops.account.pk).update(username="other")
        renamed = Person(User.objects.get(pk=ops.account.pk), "test")
        User.objects.filter(pk=ben.account.pk).update(username="ops")
        other = Person(User.objects.get(pk=ben.account.pk), "test")
        assert give(devices[1], by=renamed.actor).state == "held"
        assert give(devices[2], by=other.actor).state == "queued"  # whoever has the name now gave nothing yet

    def test_a_new_name_makes_no_room_for_held_acts(self, devices: list[Device], ops: Person) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        for by in (Actor("token:billing", "10.0.0.1", ops.account.pk), ops.actor) * (guard.HELD_ACTS_MAX // 2):
            give(devices[0], by=by)
        User.objects.filter(pk=ops.account.pk).update(username="other")
        with pytest.raises(DownlinkError, match="20 acts of other wait for a second person already"):
            give(devices[1], by=Person(User.objects.get(pk=ops.account.pk), "test").actor)

    def test_programs_count_for_the_account_that_made_their_tokens(self, devices: list[Device], ops: Person) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 2)
        programs = [Actor(f"token:{name}", "10.0.0.1", ops.account.pk) for name in ("a", "b", "c")]
        given = [give(devices[0], by=by).state for by in (programs[0], programs[1], programs[2], ops.actor)]
        assert given == ["queued", "queued", "held", "held"]
        CommandLimit.objects.create(kind=CommandKind.SET_CLOCK, span="hour", most=1, account="token:c")
        assert [give(devices[1], by=programs[2]).state for _ in range(2)] == ["queued", "held"]  # by itself
        assert give(devices[2], by=Actor("token:orphan", "10.0.0.1")).state == "queued"

    def test_a_limit_goes_with_its_account_and_not_with_the_name(self, devices: list[Device], ops: Person) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 5)
        guard.save_limit(OPS, CommandLimit(kind=CommandKind.SET_CLOCK, span="hour", most=0, owner=ops.account))
        assert give(devices[0], by=Actor("token:a", "10.0.0.1", ops.account.pk)).state == "held"
        User.objects.filter(pk=ops.account.pk).update(username="other")
        assert give(devices[0], by=Person(User.objects.get(pk=ops.account.pk), "test").actor).state == "held"
        namesake = person("ops", "operator")
        assert give(devices[1], by=namesake.actor).state == "queued"
        User.objects.filter(pk=ops.account.pk).delete()
        assert CommandLimit.objects.count() == CommandLimit.objects.filter(owner=None).count()
        assert CommandLimit.objects.get(kind=CommandKind.SET_CLOCK).most == 5

    def test_a_limit_of_a_system_user_holds_for_the_account_that_gets_the_name(self, devices: list[Device]) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 5)
        CommandLimit.objects.create(kind=CommandKind.SET_CLOCK, span="hour", most=0, account="ops")
        account = person("ops", "operator")
        assert [give(devices[0], by=by).state for by in (OPS, account.actor)] == ["held", "queued"]
        guard.save_limit(OPS, CommandLimit(kind=CommandKind.SET_CLOCK, span="hour", most=9, owner=account.account))
        assert give(devices[1]).state == "queued", "the account's own is in its place"

    def test_an_account_may_have_a_limit_of_its_own(self, devices: list[Device]) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 5)
        CommandLimit.objects.create(kind=CommandKind.SET_CLOCK, span="hour", most=0, account="ops")
        assert give(devices[0]).state == "held"
        assert give(devices[1], by=Actor("eve", "")).state == "queued"

    def test_an_order_to_many_is_one_act(self, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_CLOCK, "hour", 2)
        many = [device.meter for device in devices]
        given = operator.give_to_many(many[:2], CLOCK, OPS, timezone.now())
        assert [command.state for command in given.commands] == ["queued"] * 2
        held = operator.give_to_many(many, CLOCK, OPS, timezone.now())
        assert [command.state for command in held.commands] == ["held"] * 3
        assert Approval.objects.get().subject["commands"] == 3
        released(held.commands[0].approval, ben)
        assert Command.objects.filter(state="queued").count() == 5
        acts = AuditRecord.objects.filter(act="command.set_clock").order_by("number").values_list("result", flat=True)
        assert [*acts] == ["2 queued", "3 held"]

    def test_tallies_go_after_two_days(self, devices: list[Device]) -> None:
        give(devices[0])
        CommandTally.objects.update(minute=timezone.now() - timedelta(days=3))
        tasks.delete_old_rows()
        assert not CommandTally.objects.exists()


class TestWaves:
    def begun(self) -> RotationWave:
        return rollouts.begin("spring", Selection(everything=True), OPS, timezone.now(), 6_000, 0)

    def test_a_large_wave_waits_whole(self, concentrator: Concentrator, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_KEY, "act", 2)
        why = guard.forecast(OPS, CommandKind.SET_KEY, 3, timezone.now())
        assert why == "set key commands beyond the limit of 2 in one act: 3"
        wave = self.begun()
        assert (wave.state, rollouts.step(timezone.now())) == (WaveState.HELD, 0)
        for act in (rollouts.pause, rollouts.resume):
            with pytest.raises(rollouts.WaveError, match="is held"):
                act(wave.pk, OPS)
        with pytest.raises(rollouts.WaveError, match="no meter"):
            self.begun()  # its meters are taken
        released(wave.approval, ben)
        assert rollouts.step(timezone.now()) == 3
        assert len(fetched(concentrator)) == 3

    def test_refused_expired_and_cancelled(self, devices: list[Device], ben: Person) -> None:
        limit(CommandKind.SET_KEY, "act", 2)
        refused = self.begun()
        approvals.refuse(waiting(refused), ben, timezone.now(), "not now")
        expired = self.begun()
        Approval.objects.filter(pk=waiting(expired)).update(expires_at=timezone.now())
        tasks.expire_commands()
        cancelled = self.begun()
        rollouts.cancel(cancelled.pk, OPS, timezone.now())
        assert {*RotationWave.objects.values_list("state", flat=True)} == {WaveState.CANCELLED}
        with pytest.raises(ApprovalError, match="was cancelled"):
            released(cancelled.approval, ben)

    def test_several_small_waves_are_counted_together(self, devices: list[Device]) -> None:
        limit(CommandKind.SET_KEY, "day", 2)
        for index, expected in enumerate([WaveState.RUNNING, WaveState.RUNNING, WaveState.HELD]):
            chosen = Selection([devices[index].title])
            wave = rollouts.begin("one", chosen, OPS, timezone.now(), 60, 0)
            assert wave.state == expected


class TestDoors:
    def test_a_program_is_counted_and_the_account_behind_it_releases_nothing(
        self, devices: list[Device], ben: Person
    ) -> None:
        limit(CommandKind.READ_NOW, "hour", 1)
        made = api_tokens.make(ben.actor, "erp", ["commands"], 30, timezone.now())
        url = f"/api/v1/meters/{devices[0].title.hex()}/commands"
        header = {"Authorization": f"Bearer {made.secret}"}
        answers = [
            Client().post(url, {"kind": "read_now"}, content_type="application/json", headers=header) for _ in range(2)
        ]
        first, second = [answer.json()[0] for answer in answers]
        assert (first["state"], first["held_because"], first["held_number"]) == ("queued", None, None)
        assert second["state"] == "held"
        assert "beyond the limit of 1 an hour" in second["held_because"]
        held = Approval.objects.get()
        assert (held.requested_by, held.pk) == ("token:erp", second["held_number"])
        with pytest.raises(ApprovalError, match="another person"):
            released(held, ben)
        released(held, person("kim", "key officer"))

    def test_who_rotates_a_token_of_another_is_no_second_person_for_it(
        self, devices: list[Device], ops: Person, ben: Person
    ) -> None:
        limit(CommandKind.READ_NOW, "hour", 0)
        made = api_tokens.make(ops.actor, "erp", ["commands"], 30, timezone.now())
        rotated = api_tokens.rotate(ben.actor, made.token.pk, 30, timedelta(hours=1), timezone.now())
        for device, secret, giver, other in ((0, rotated.secret, ben, ops), (1, made.secret, ops, ben)):
            url = f"/api/v1/meters/{devices[device].title.hex()}/commands"
            header = {"Authorization": f"Bearer {secret}"}
            Client().post(url, {"kind": "read_now"}, content_type="application/json", headers=header)
            held = Approval.objects.latest("pk")
            assert held.requester_id == giver.account.pk
            with pytest.raises(ApprovalError, match="another person"):
                released(held, giver)
            released(held, other)

    @pytest.mark.parametrize("is_renamed_before", [False, True])
    def test_who_is_renamed_is_no_second_person_for_their_program(
        self, devices: list[Device], ben: Person, is_renamed_before: bool
    ) -> None:
        limit(CommandKind.READ_NOW, "hour", 0)
        made = api_tokens.make(ben.actor, "erp", ["commands"], 30, timezone.now())
        if is_renamed_before:
            User.objects.filter(username="ben").update(username="benjamin")
            person("ben", "administrator")  # somebody else
        url = f"/api/v1/meters/{devices[0].title.hex()}/commands"
        header = {"Authorization": f"Bearer {made.secret}"}
        Client().post(url, {"kind": "read_now"}, content_type="application/json", headers=header)
        held = Approval.objects.get()
        User.objects.filter(pk=ben.account.pk).update(username="benny")
        renamed = Person(User.objects.get(pk=ben.account.pk), "test")
        with pytest.raises(ApprovalError, match="another person"):
            released(held, renamed)
        assert held.requester_id == ben.account.pk

    def test_rest_for_the_second_person(self, devices: list[Device], ben: Person, client: Client) -> None:
        limit(CommandKind.SET_CLOCK, "act", 0)
        first, second = give(devices[0]), give(devices[1])
        client.force_login(ben.account)
        listed = client.get("/api/v1/held-commands").json()
        assert [(row["number"], row["state"], row["commands"]) for row in listed] == [
            (second.approval_id, "waiting", 1),
            (first.approval_id, "waiting", 1),
        ]

        def decide(number: int | None, body: dict[str, str]) -> Any:
            return client.post(f"/api/v1/held-commands/{number}", body, content_type="application/json")

        assert "Say why" in decide(first.approval_id, {"decision": "refuse"}).content.decode()
        assert decide(first.approval_id, {"decision": "refuse", "reason": "no"}).json()["refusal"] == "no"
        assert decide(second.approval_id, {"decision": "release"}).json()["state"] == "used"
        again = decide(second.approval_id, {"decision": "release"})
        assert (again.status_code, again["Content-Type"]) == (400, "application/problem+json")
        assert decide(0, {"decision": "release"}).status_code == 404
        assert [state(first), state(second)] == ["cancelled", "queued"]

    def test_the_pages_say_so(self, devices: list[Device], ops: Person, ben: Person, client: Client) -> None:
        limit(CommandKind.SET_KEY, "act", 2)
        client.force_login(ops.account)
        form = {"name": "all", "everything": "on", "rate_per_hour": "60", "failure_budget": "0"}
        preview = client.post("/admin/keys/waves/new/", {**form, "act": "preview"}).content.decode()
        assert "This wave will wait for a second person: set key commands beyond the limit of 2" in preview
        page = client.post("/admin/keys/waves/new/", {**form, "act": "begin"}, follow=True).content.decode()
        assert "Another person with the right to approve must release it" in page
        assert "Resume the wave" not in page
        held = Approval.objects.get()
        client.force_login(ben.account)
        queue = client.get("/admin/keys/approvals/").content.decode()
        assert "Give new keys to 3 meters" in queue
        assert "Release" in queue
        post = {"act": "refuse", "number": held.pk}
        assert "say why" in client.post("/admin/keys/approvals/", post, follow=True).content.decode()
        page = client.post("/admin/keys/approvals/", {**post, "reason": "who asked?"}, follow=True).content.decode()
        assert "refused: who asked?" in page
        assert RotationWave.objects.get().state == WaveState.CANCELLED

    def test_an_alert_while_they_wait(self, devices: list[Device], ben: Person) -> None:
        rule = Rule.objects.get(condition="commands_held")
        limit(CommandKind.SET_CLOCK, "act", 0)
        held = give(devices[0])
        find = SEARCHES["commands_held"].find  # type: ignore[index]
        assert not find(rule, [], timezone.now()).listed
        (found,) = find(rule, [], timezone.now() + timedelta(minutes=2)).listed
        assert "ops wants to send 'set clock' to meter" in found.summary
        released(held.approval, ben)
        assert not find(rule, [], timezone.now() + timedelta(minutes=2)).listed

    def test_limits_are_changed_by_administrators_and_audited(self, ben: Person, client: Client) -> None:
        client.force_login(ben.account)
        row = CommandLimit.objects.get(kind=CommandKind.SET_CLOCK, span="hour")
        url = f"/admin/concentrators/commandlimit/{row.pk}/change/"
        client.post(url, {"kind": 4, "span": "hour", "most": 7, "share_percent": "", "account": ""})
        row.refresh_from_db()
        assert row.most == 7
        client.post(url.replace("change", "delete"), {"post": "yes"})
        assert not CommandLimit.objects.filter(pk=row.pk).exists()
        acts = AuditRecord.objects.order_by("number").values_list("actor", "act")
        assert [*acts] == [("ben", "command_limit.save"), ("ben", "command_limit.delete")]

    def test_a_limit_of_an_account_is_chosen_and_of_a_program_written(self, ben: Person, client: Client) -> None:
        client.force_login(ben.account)
        url = "/admin/concentrators/commandlimit/add/"
        form = {"kind": 4, "span": "hour", "most": 7, "share_percent": ""}
        assert "choose it above" in client.post(url, {**form, "owner": "", "account": "ops"}).content.decode()
        both = {**form, "owner": ben.account.pk, "account": "token:erp"}
        assert "a limit has one of them" in client.post(url, both).content.decode()
        for values in ({"owner": ben.account.pk, "account": ""}, {"owner": "", "account": "token:erp"}):
            assert client.post(url, {**form, **values}).status_code == 302
            assert "There is a limit for this kind" in client.post(url, {**form, **values}).content.decode()
        User.objects.filter(pk=ben.account.pk).update(username="benny")
        row = CommandLimit.objects.get(owner=ben.account)
        page = f"/admin/concentrators/commandlimit/{row.pk}/change/"
        assert client.post(page, {**form, "most": 8, "owner": ben.account.pk, "account": ""}).status_code == 302
        told = [record.subject["account"] for record in AuditRecord.objects.order_by("number")]
        assert told == ["ben", "token:erp", "benny"]
        assert "benny" in client.get("/admin/concentrators/commandlimit/").content.decode()

    def test_where_it_cannot_be_recorded_no_limit_is_changed(
        self, ben: Person, client: Client, settings: Settings, tmp_path: Path
    ) -> None:
        client.force_login(ben.account)
        row = CommandLimit.objects.get(kind=CommandKind.SET_CLOCK, span="hour")
        url = f"/admin/concentrators/commandlimit/{row.pk}/change/"
        settings.MASTER_KEY_FILE = tmp_path / "gone"
        values = {"kind": 4, "span": "hour", "most": 7}
        for page, posted in ((url, values), (url.replace("change", "delete"), {"post": "yes"})):
            text = client.post(page, posted, follow=True).content.decode()
            assert "Nothing was changed, because it could not be recorded" in text
        assert CommandLimit.objects.get(pk=row.pk).most == row.most
        assert "delete_selected" not in client.get("/admin/concentrators/commandlimit/").content.decode()


def test_what_it_costs_does_not_depend_on_the_number(devices: list[Device]) -> None:
    with counting() as one:
        guard.hold_what_is_beyond([give(devices[0])], OPS, timezone.now())
    limit(CommandKind.SET_CLOCK, "act", 2)
    given = [give(device) for device in devices]
    with counting() as many:
        assert guard.hold_what_is_beyond(given, OPS, timezone.now()) is not None
    assert len(many) < len(one) + 8


def _officer(ops: Person) -> User:
    return User.objects.get(pk=ops.account.pk)
