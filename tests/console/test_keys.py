"""The pages of the keys: what they show, for whom, what their buttons do, and for whom they do nothing."""

import json
import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.models import Condition, Rule
from ami_headend.models import KeptAnswer
from ami_headend.signin import roles
from concentrators.commands import guard, rollouts
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandKind, CommandLimit, CommandState, RotationWave, WaveState
from keyvault import approvals, master_key, rights
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs, inventory, key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.master_key import rewrap, versions
from keyvault.models import Approval, AuditRecord, DeviceKey, InvocationCounter, KeyState, MasterKeyRotation
from tests.concentrators.fleet import Device, commission
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.audit.test_chain import tamper

pytestmark = pytest.mark.django_db

LIVE = {"HX-Request": "true"}
KEYS, MASTER_KEY = reverse_lazy("admin:keys"), reverse_lazy("admin:master-key")
WAVES, NEW_WAVE = reverse_lazy("admin:waves"), reverse_lazy("admin:wave-new")
AUDIT, APPROVALS = reverse_lazy("admin:audit"), reverse_lazy("admin:approvals")
ACTOR = Actor("tester", "test")
ROLES = (roles.OPERATOR, roles.KEY_OFFICER, roles.ADMINISTRATOR, roles.AUDITOR)


def forget() -> None:
    """Kept answers are asked anew."""
    KeptAnswer.objects.all().delete()


@pytest.fixture
def own_master_key(settings: Settings, tmp_path: Path) -> None:
    """A master key of this test's own, to be rotated."""
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    settings.MASTER_KEY_DESTROY_AFTER_DAYS = 0
    master_key.provider().init()


def account(role: str, name: str | None = None) -> User:
    user = User.objects.create_user(name or role.replace(" ", "-"), is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def signed_in(role: str, name: str | None = None) -> Client:
    client = Client()
    client.force_login(account(role, name))
    return client


@pytest.fixture
def officer() -> Client:
    return signed_in(roles.KEY_OFFICER)


def text(answer: object) -> str:
    assert isinstance(answer, HttpResponse)
    return unescape(answer.content.decode())


def act(client: Client, url: object, name: str, **given: object) -> str:
    """Press a button; gives what the page that comes afterwards says."""
    answer = client.post(str(url), {"act": name, **given})
    assert answer.status_code == 302, answer.content.decode()[:2000]
    return text(client.get(answer["Location"]))


def fitted(count: int) -> list[Device]:
    """Meters that can get new keys."""
    devices = commission(count, ConcentratorFactory.create())
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


def begun(count: int = 3, rate: int = 60, budget: int = 0) -> RotationWave:
    fitted(count)
    return rollouts.begin("spring", Selection(everything=True), ACTOR, timezone.now(), rate, budget)


def wave_url(wave: RotationWave) -> str:
    return reverse("admin:wave", args=[wave.pk])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (KEYS, {roles.OPERATOR, roles.KEY_OFFICER, roles.AUDITOR}),
        (MASTER_KEY, {roles.KEY_OFFICER, roles.AUDITOR}),
        (reverse_lazy("admin:master-key-destroy", args=[1]), {roles.KEY_OFFICER}),
        (WAVES, {roles.OPERATOR, roles.KEY_OFFICER, roles.AUDITOR}),
        (NEW_WAVE, {roles.KEY_OFFICER}),
        (AUDIT, {roles.AUDITOR}),
        (reverse_lazy("admin:audit-export"), {roles.AUDITOR}),
        (APPROVALS, {roles.KEY_OFFICER, roles.ADMINISTRATOR, roles.AUDITOR}),
    ],
)
def test_each_role_sees_its_pages(url: object, allowed: set[str]) -> None:
    found = {role: signed_in(role).get(str(url)).status_code for role in ROLES}
    assert found == {role: 200 if role in allowed else 403 for role in ROLES}


def test_an_auditor_and_an_operator_change_nothing(own_master_key: None) -> None:
    wave = begun()
    records = AuditRecord.objects.count()
    attempts = [
        *((MASTER_KEY, name) for name in ("rotate", "stop", "resume")),
        *((wave_url(wave), name) for name in ("pause", "resume", "cancel")),
        (reverse("admin:master-key-destroy", args=[1]), "destroy"),
        (NEW_WAVE, "begin"),
        (APPROVALS, "approve"),
        (KEYS, "anything"),
    ]
    for role in (roles.AUDITOR, roles.OPERATOR):
        client = signed_in(role)
        assert {client.post(str(url), {"act": name}).status_code for url, name in attempts} <= {403, 405}
        page = text(client.get(wave_url(wave)))
        assert "spring" in page
        assert not re.search(r'value="(pause|resume|cancel)"', page)
        assert "New wave" not in text(client.get(str(WAVES)))
    wave.refresh_from_db()
    assert (wave.state, MasterKeyRotation.objects.count()) == (WaveState.RUNNING, 0)
    assert AuditRecord.objects.count() == records


class TestKeys:
    """Device keys by state and epoch, and those to look after."""

    def test_states_are_counted(self, officer: Client) -> None:
        devices = fitted(4)
        epochs.begin([device.title for device in devices[:2]])
        epochs.compromise([DeviceKey.objects.get(system_title=devices[3].title, epoch=1).pk], ACTOR)
        found = inventory.device_keys()
        assert found.by_state == {"pending": 2, "active": 3, "retiring": 0, "retired": 0, "compromised": 1}
        assert found.by_epoch == {1: {"active": 3, "compromised": 1}, 2: {"pending": 2}}
        assert found.transfer == {"active": 4}
        page = text(officer.get(str(KEYS)))
        assert devices[3].title.hex() in page  # without a successor
        assert "4 active" in page

    def test_overdue_and_worn_keys_are_named(self, officer: Client, settings: Settings) -> None:
        devices = fitted(3)
        epochs.begin([devices[0].title])
        assert inventory.overdue(timezone.now(), 5).number == 0
        late = timezone.now() - timedelta(seconds=settings.COMMAND_EXPIRES_S + 1)
        DeviceKey.objects.filter(state="pending").update(created_at=late)
        worn = DeviceKey.objects.get(system_title=devices[1].title, epoch=1)
        InvocationCounter.objects.update_or_create(
            key=worn, defaults={"highest": settings.KEY_ROTATE_AT_COUNTER, "floor": 0, "gaps": [], "key_version": 1}
        )
        overdue, near = inventory.overdue(timezone.now(), 5), inventory.near_budget(5)
        assert [(key.system_title, key.epoch) for key in overdue.listed] == [(devices[0].title, 2)]
        assert [key.key_id for key in near.listed] == [worn.pk]
        assert inventory.near_budget(0).listed == []
        page = text(officer.get(str(KEYS), headers=LIVE))
        assert devices[0].title.hex() in page
        assert f"{settings.KEY_ROTATE_AT_COUNTER:,}" in page

    def test_an_empty_head_end_says_what_to_do(self, officer: Client) -> None:
        page = text(officer.get(str(KEYS)))
        assert "No device has a key yet" in page
        assert "None. Every new key arrived in time." in page


@pytest.mark.usefixtures("own_master_key")
class TestMasterKey:
    """A rotation from the button to the destroyed version."""

    def run(self) -> None:
        rotation = rewrap.current()
        assert rotation is not None
        while rewrap.rewrap_batch(rotation.pk):
            pass
        forget()

    def test_a_rotation_from_start_to_destroyed(self, officer: Client) -> None:
        fitted(3)
        assert "Version 2 is active; 7 secrets" in act(officer, MASTER_KEY, "rotate")  # the audit key is one
        page = text(officer.get(str(MASTER_KEY), headers=LIVE))
        assert 'value="stop"' in page
        assert "0 of 7 secrets" in page
        assert "resume it" in act(officer, MASTER_KEY, "rotate")
        assert "stops after the present batch" in act(officer, MASTER_KEY, "stop")
        assert 'value="resume"' in text(officer.get(str(MASTER_KEY), headers=LIVE))
        assert "continues" in act(officer, MASTER_KEY, "resume")
        destroy = reverse("admin:master-key-destroy", args=[1])
        assert "need version 1" in text(officer.get(destroy))
        assert "need version 1" in act(officer, destroy, "destroy", number="1")
        self.run()
        page = text(officer.get(str(MASTER_KEY), headers=LIVE))
        assert "7 of 7 secrets" in page
        assert destroy in page
        assert "enter 1 to confirm" in act(officer, destroy, "destroy", number="2")
        assert "Version 1 is destroyed" in act(officer, destroy, "destroy", number="1")
        assert [row.state for row in inventory.versions([])] == ["destroyed", "active"]
        recorded = list(AuditRecord.objects.filter(act__startswith="master_key.").values_list("act", "actor", "result"))
        assert ("master_key.destroy", "key-officer", "done") in recorded
        assert chain.verify().number == AuditRecord.objects.count()

    def test_the_waiting_period_is_kept(self, officer: Client, settings: Settings) -> None:
        settings.MASTER_KEY_DESTROY_AFTER_DAYS = 30
        act(officer, MASTER_KEY, "rotate")
        self.run()
        due = f"{timezone.now() + timedelta(days=30):%Y-%m-%d}"
        assert f"from {due} on" in text(officer.get(str(MASTER_KEY)))
        destroy = reverse("admin:master-key-destroy", args=[1])
        assert "MASTER_KEY_DESTROY_AFTER_DAYS" in act(officer, destroy, "destroy", number="1")
        assert inventory.versions([])[0].state == "decrypt_only"

    def test_a_second_person_approves_the_end(self, officer: Client, settings: Settings) -> None:
        settings.REQUIRE_APPROVAL = True
        act(officer, MASTER_KEY, "rotate")
        self.run()
        destroy = reverse("admin:master-key-destroy", args=[1])
        assert "A second person has to approve" in text(officer.get(destroy))
        assert "needs the approval" in act(officer, destroy, "destroy", number="1")
        assert "say why" in act(officer, destroy, "ask", reason=" ")
        assert "waits for another person" in act(officer, destroy, "ask", reason="rotated in May")
        asked = Approval.objects.get()
        own = text(officer.get(str(APPROVALS)))
        assert 'value="approve"' not in own
        assert "Take back" in own
        assert "another person must approve it" in act(officer, APPROVALS, "approve", number=asked.pk)
        second = signed_in(roles.ADMINISTRATOR)
        page = text(second.get(str(APPROVALS), headers=LIVE))
        assert "rotated in May" in page
        assert 'value="approve"' in page
        assert "Approved: destroy version 1" in act(second, APPROVALS, "approve", number=asked.pk)
        assert "Version 1 is destroyed" in act(officer, destroy, "destroy", number="1")
        assert approvals.state(Approval.objects.get(), timezone.now()) == "used"

    def test_what_an_interrupted_rotation_left_is_taken_up(self, officer: Client) -> None:
        fitted(1)
        master_key.provider().add_version()
        page = text(officer.get(str(MASTER_KEY)))
        assert "2 secrets are still under older versions" in page
        assert "continues" in act(officer, MASTER_KEY, "resume")

    def test_a_master_key_that_is_away_is_told_of(self, officer: Client, settings: Settings, tmp_path: Path) -> None:
        settings.MASTER_KEY_FILE = tmp_path / "gone"
        page = text(officer.get(str(MASTER_KEY)))
        assert "cannot be used" in page
        assert 'value="rotate"' not in page
        assert "Nothing was done" in act(officer, MASTER_KEY, "rotate")

    def test_there_is_no_version_9(self, officer: Client) -> None:
        assert officer.get(reverse("admin:master-key-destroy", args=[9])).status_code == 404


class TestWaves:
    """A wave from the form to its end."""

    FORM = {"name": "spring", "everything": "on", "rate_per_hour": "60", "failure_budget": "2"}

    def test_meters_are_counted_before_it_begins(self, officer: Client) -> None:
        fitted(3)
        commission(1, None)  # without a transfer key
        page = text(officer.post(str(NEW_WAVE), {**self.FORM, "act": "preview"}))
        assert re.search(r'id="preview"><strong>3</strong> of 4 meters', page)
        assert "Start the wave" in page
        assert RotationWave.objects.count() == 0
        answer = officer.post(str(NEW_WAVE), {**self.FORM, "act": "begin"})
        wave = RotationWave.objects.get()
        assert answer["Location"] == wave_url(wave)
        assert (wave.name, wave.rate_per_hour, wave.failure_budget) == ("spring", 60, 2)
        assert (wave.created_by, rollouts.progress(wave).meters) == ("key-officer", 3)
        assert AuditRecord.objects.get(act="device_key.rotate").actor == "key-officer"

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"everything": ""}, "Say which meters"),
            ({"older_than_days": "400"}, "can get a new key now"),
            ({"titles": "0024be"}, "16 hex digits"),
            ({"concentrator": "nowhere"}, "no concentrator named nowhere"),
            ({"rate_per_hour": "0"}, "greater than or equal to 1"),
            ({"failure_budget": "-1"}, "greater than or equal to 0"),
            ({"name": ""}, "required"),
        ],
    )
    def test_a_form_that_makes_no_sense_is_told_why(self, officer: Client, changed: dict[str, str], said: str) -> None:
        fitted(1)
        for name in ("preview", "begin"):
            page = text(officer.post(str(NEW_WAVE), {**self.FORM, **changed, "act": name}))
            assert said in page
            assert "Start the wave" not in page
        assert RotationWave.objects.count() == 0

    def test_criteria_narrow_each_other(self, officer: Client) -> None:
        devices = fitted(3)
        titles = f"{devices[0].title.hex()}\n{devices[1].title.hex().upper()}, {devices[1].title.hex()}"
        given = {**self.FORM, "everything": "", "titles": titles, "act": "preview"}
        assert "<strong>2</strong> of 3" in text(officer.post(str(NEW_WAVE), given))

    def test_paused_resumed_and_cancelled(self, officer: Client) -> None:
        wave = begun()
        rollouts.step(timezone.now())
        url = wave_url(wave)
        assert "Paused: no more commands" in act(officer, url, "pause")
        assert "cannot become paused" in act(officer, url, "pause")
        assert "The wave continues" in act(officer, url, "resume")
        page = act(officer, url, "cancel")
        assert "Cancelled: commands not fetched yet" in page
        assert "Cancel the wave" not in page
        wave.refresh_from_db()
        assert wave.state == WaveState.CANCELLED
        assert Command.objects.get().state == CommandState.CANCELLED

    def test_a_stopped_wave_asks_for_a_higher_budget(self, officer: Client) -> None:
        wave = begun()
        rollouts.step(timezone.now())
        Command.objects.update(state=CommandState.REFUSED, ended_at=timezone.now())
        rollouts.step(timezone.now())
        url = wave_url(wave)
        page = text(officer.get(url))
        assert "Failures stopped it" in page
        assert 'name="failure_budget" min="1" value="11"' in page
        assert "must be 1 or more" in act(officer, url, "resume", failure_budget="0")
        for odd in ("-1", "much", "9" * 12, "\u0663"):
            assert "a failure budget is a number" in act(officer, url, "resume", failure_budget=odd)
        assert "with a failure budget of 11" in act(officer, url, "resume", failure_budget="11")
        wave.refresh_from_db()
        assert (wave.state, wave.failure_budget) == (WaveState.RUNNING, 11)

    def test_the_outcome_of_each_meter_is_told(self, officer: Client) -> None:
        wave = begun(count=3, rate=120)
        rollouts.step(timezone.now())
        command = Command.objects.order_by("pk").first()
        assert command is not None
        Command.objects.filter(pk=command.pk).update(state=CommandState.DONE, ended_at=timezone.now())
        url = wave_url(wave)
        page = text(officer.get(url, headers=LIVE))
        assert "1 of 3 meters are done" in page
        done = text(officer.get(f"{url}?state=done", headers=LIVE))
        assert str(command.meter) in done
        assert done.count("/admin/meters/") == 1
        assert text(officer.get(f"{url}?state=waiting", headers=LIVE)).count("/admin/meters/") == 1
        assert (
            text(officer.get(f"{url}?meter={command.meter.serial_number}", headers=LIVE)).count("/admin/meters/") == 1
        )
        assert "There is no such page" in text(officer.get(f"{url}?after=x"))
        assert officer.get(reverse("admin:wave", args=[wave.pk + 1])).status_code == 404

    def test_a_long_wave_goes_on_on_the_next_page(self, officer: Client) -> None:
        wave = begun(count=53)
        page = text(officer.get(wave_url(wave)))
        following = re.search(r'href="(\?after=\d+)">Next page', page)
        assert following is not None
        rest = text(officer.get(wave_url(wave) + following[1], headers=LIVE))
        assert rest.count("/admin/meters/") == 3


class TestAudit:
    """The records, the state of the chain, its export."""

    @pytest.fixture
    def auditor(self) -> Client:
        return signed_in(roles.AUDITOR)

    def test_records_are_found_by_act_person_and_time(self, auditor: Client) -> None:
        chain.record(Actor("ann", "10.0.0.1"), "device_key.rotate", {"wave": 7})
        chain.record(Actor("ben", "10.0.0.2"), "master_key.stop", {"rotation": 1})
        rows = text(auditor.get(str(AUDIT)))
        assert "wave 7" in rows
        assert "rotation 1" in rows
        assert "wave 7" not in text(auditor.get(f"{AUDIT}?act=master_key."))
        assert "rotation 1" not in text(auditor.get(f"{AUDIT}?actor=ann"))
        assert "No record matches" in text(auditor.get(f"{AUDIT}?from=2099-01-01T00:00"))

    def test_the_chain_is_verified_on_demand(self, auditor: Client) -> None:
        chain.record(ACTOR, "test", {})
        assert "unverified" in text(auditor.get(str(AUDIT)))
        assert "Verified: 1 record, none changed" in act(auditor, AUDIT, "verify")
        assert "verified up to record 1" in text(auditor.get(str(AUDIT)))
        chain.record(ACTOR, "test", {})
        assert "verified up to record 1, 1 since" in text(auditor.get(str(AUDIT)))

    def test_a_cut_chain_is_not_verified_into_a_whole_one(self, auditor: Client) -> None:
        """Not even where no key journal is at hand: what the rule saw last is what it would go on from."""
        for _ in range(3):
            chain.record(ACTOR, "test", {})
        act(auditor, AUDIT, "verify")
        rule = Rule.objects.get(condition=Condition.AUDIT_BROKEN)
        tamper("DELETE FROM keyvault_auditrecord WHERE number = 3")
        assert "Nothing was done: the chain ends" in act(auditor, AUDIT, "verify")
        assert Rule.objects.get(pk=rule.pk).marks == rule.marks

    def test_what_was_looked_at_before_the_first_record_is_not_called_verified(self, auditor: Client) -> None:
        Rule.objects.filter(condition=Condition.AUDIT_BROKEN).update(marks={"head": {"number": 0, "mac": "00"}})
        assert "nothing has been recorded yet" in text(auditor.get(str(AUDIT)))
        chain.record(ACTOR, "test", {})
        page = text(auditor.get(str(AUDIT)))
        assert "verified up to" not in page
        assert "1 record since the last check" in page

    def test_records_are_found_by_meter_and_key(self, auditor: Client) -> None:
        meter = MeterFactory.create(serial_number="SN-1", system_title=bytes.fromhex("02e1234567890123"))
        title = bytes(meter.system_title).hex()
        for device, fingerprint in ((title, "aa00bb11cc22dd33"), ("0024befffe000002", "1234567890123456")):
            named = [{"device": device, "epoch": 1, "fingerprint": fingerprint}]
            chain.record(ACTOR, "device_key.rotate", {"wave": f"of {device}", "named": named})
        for asked in ("sn-1", "SN-1", "02-E1-23-45-67-89-01-23", title, "aa00bb11cc22dd33"):
            page = text(auditor.get(str(AUDIT), {"of": asked}))
            assert f"of {title}" in page, asked
            assert "of 0024befffe000002" not in page, asked
        assert "of 0024befffe000002" in text(auditor.get(str(AUDIT), {"of": "1234567890123456"}))
        assert "No record matches" in text(auditor.get(str(AUDIT), {"of": "SN-9' OR"}))

    def test_the_export_holds_every_record_and_its_own(self, auditor: Client) -> None:
        chain.record(ACTOR, "test", {"n": 1})
        answer = auditor.get(reverse("admin:audit-export"))
        lines = b"".join(answer.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
        assert [json.loads(line)["act"] for line in lines] == ["test", "audit.export"]
        assert 'filename="audit-1.jsonl"' in answer["Content-Disposition"]


def test_an_odd_number_of_an_approval_is_refused(officer: Client) -> None:
    for odd in ("", "x", "9" * 40, "-1"):
        assert "there is no such approval" in act(officer, APPROVALS, "refuse", number=odd)
    assert "there is no approval 4" in act(officer, APPROVALS, "refuse", number="4")


def test_whoever_asked_takes_it_back(officer: Client) -> None:
    user = User.objects.get(username="key-officer")
    person = approvals.Person(user, "test")
    approvals.request(approvals.DESTROY, versions.approval_subject(1), "why", person, timezone.now())
    number = Approval.objects.get().pk
    assert "Nothing was done" in act(signed_in(roles.AUDITOR), APPROVALS, "refuse", number=number)
    assert "Refused: destroy version 1" in act(officer, APPROVALS, "refuse", number=number)


def test_no_page_holds_key_octets(admin_client: Client) -> None:
    wave = begun(count=2)
    epochs.begin([bytes(key.system_title) for key in DeviceKey.objects.filter(epoch=1)])
    wrapped = [bytes(key.wrapped or b"") for key in DeviceKey.objects.exclude(wrapped=None)]
    for url in (KEYS, MASTER_KEY, WAVES, NEW_WAVE, AUDIT, APPROVALS, wave_url(wave)):
        page = admin_client.get(str(url)).content.decode()
        assert not [octets for octets in wrapped if octets.hex() in page or octets.hex()[40:72] in page]


@pytest.mark.parametrize("url", [KEYS, MASTER_KEY, WAVES, AUDIT, APPROVALS, "wave"])
def test_the_cost_is_the_same_however_much_there_is(admin_client: Client, url: object) -> None:
    wave = begun(count=2)
    address = wave_url(wave) if url == "wave" else str(url)

    def cost() -> list[str]:
        forget()
        statements.take()
        assert admin_client.get(address, headers=LIVE).status_code == 200
        return statements.take()

    with counting() as statements:
        few = cost()
        rollouts.step(timezone.now())
        for number in range(5):
            begun(count=20)
            chain.record(ACTOR, "test", {"n": number})
        assert len(cost()) == len(few) <= 20, few


def test_rights_are_asked_for_on_every_act(officer: Client) -> None:
    """A right that is taken away holds from the next press on."""
    wave = begun()
    user = User.objects.get(username="key-officer")
    user.groups.clear()
    app, codename = rights.ROTATE_DEVICE_KEYS.split(".")
    assert not user.has_perm(f"{app}.{codename}")
    assert officer.post(wave_url(wave), {"act": "pause"}).status_code == 403


def test_compromised_keys_are_cut_off_where_their_wave_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (device,) = commission(1, ConcentratorFactory.create())
    provisioning.provision_stored([NewKey(device.title, 0)])
    CommandLimit.objects.update_or_create(kind=CommandKind.SET_KEY, span="act", defaults={"most": 0})
    monkeypatch.setattr(guard, "HELD_ACTS_MAX", 0)
    given = {"titles": device.title.hex(), "replace": "on", "act": "compromise"}
    answer = signed_in(roles.KEY_OFFICER).post(reverse("admin:compromise"), given, follow=True)
    said = [str(one) for one in answer.context["messages"]]
    assert said[0] == "1 key cut off in every worker, for good."
    assert "Still to do: the meters need new keys." in said[1]
    assert "wait for a second person already" in said[1]
    assert DeviceKey.objects.get(state="compromised").system_title == device.title
    assert not RotationWave.objects.exists()


def test_compromised_keys_are_shown_then_cut_off_and_replaced() -> None:
    one, other = commission(2, ConcentratorFactory.create())
    provisioning.provision_stored([NewKey(one.title, 0)])
    client, page = signed_in(roles.KEY_OFFICER), reverse("admin:compromise")
    assert one.title.hex() in client.get(page, {"titles": one.title.hex()}).content.decode()
    given = {"titles": f"{one.title.hex()} {'ff' * 8}", "replace": "on"}
    shown = client.post(page, given).content.decode()
    assert "1 key of 1 device" in shown
    assert "ff" * 8 in shown
    assert DeviceKey.objects.filter(state="compromised").count() == 0
    answer = client.post(page, {**given, "act": "compromise"}, follow=True)
    wave = RotationWave.objects.get()
    assert answer.redirect_chain[-1][0] == reverse("admin:wave", args=[wave.pk])
    assert "1 key cut off" in answer.content.decode()
    assert DeviceKey.objects.get(state="compromised").system_title == one.title
    assert DeviceKey.objects.get(system_title=other.title).state == "active"
    acts = list(AuditRecord.objects.order_by("-number").values_list("act", flat=True)[:2])
    assert acts == ["device_key.rotate", "device_key.compromise"]


@pytest.mark.parametrize(
    ("titles", "said"),
    [("", "required"), ("rubbish", "not 16 hex digits"), ("ff" * 8, "None of these devices has a key")],
)
def test_what_cannot_be_compromised_is_said(titles: str, said: str) -> None:
    answer = signed_in(roles.KEY_OFFICER).post(reverse("admin:compromise"), {"titles": titles, "act": "compromise"})
    assert said in answer.content.decode()


def test_without_a_transfer_key_the_key_is_cut_off_and_what_is_left_to_do_is_said() -> None:
    device = commission(1, ConcentratorFactory.create())[0]
    given = {"titles": device.title.hex(), "replace": "on", "act": "compromise"}
    text = signed_in(roles.KEY_OFFICER).post(reverse("admin:compromise"), given, follow=True).content.decode()
    assert "that takes a shipment or a visit" in text
    assert DeviceKey.objects.get().state == "compromised"


def test_a_retiring_key_is_retired_on_its_page_or_by_rest_and_no_other() -> None:
    meters = [MeterFactory.create() for _ in range(2)]
    titles = [bytes(meter.system_title) for meter in meters]
    provisioning.provision_stored([NewKey(title, 1, bytes(range(32))) for title in titles])
    old = list(DeviceKey.objects.filter(epoch=1).order_by("pk"))
    key_rows.set_key_state([key.pk for key in old], KeyState.RETIRING)
    provisioning.provision_stored([NewKey(title, 2, bytes(range(1, 33))) for title in titles])
    client = signed_in(roles.KEY_OFFICER)
    page = reverse("admin:key-retire", args=[DeviceKey.objects.get(system_title=titles[0], epoch=1).pk])
    assert page in client.get(reverse("admin:meter", args=[meters[0].pk])).content.decode()
    assert "Retire it now" in client.get(page).content.decode()
    assert "is retired" in client.post(page, follow=True).content.decode()
    assert client.post(f"/api/v1/keys/{old[1].pk}/retirement").json()["state"] == "retired"
    assert {key.state for key in DeviceKey.objects.filter(epoch=1)} == {KeyState.RETIRED}
    assert AuditRecord.objects.filter(act="device_key.retire").count() == 2
    active = DeviceKey.objects.filter(epoch=2)[0]
    assert (
        "Nothing was done" in client.post(reverse("admin:key-retire", args=[active.pk]), follow=True).content.decode()
    )
    refused = client.post(f"/api/v1/keys/{active.pk}/retirement")
    assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
    assert client.post("/api/v1/keys/0/retirement").status_code == 404
    active.refresh_from_db()
    assert active.state == KeyState.ACTIVE
    assert page not in signed_in(roles.OPERATOR).get(reverse("admin:meter", args=[meters[0].pk])).content.decode()
