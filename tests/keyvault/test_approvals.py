"""A second person's approval: by another account, once, for exactly what was asked, until it expires."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from keyvault import approvals, master_key
from keyvault.approvals import DESTROY, EXPORT, ApprovalError, ApprovalState, Person
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import key_export
from keyvault.device_keys.provisioning import provision_devices
from keyvault.device_keys.shipment_file import ShipmentError
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.master_key import rewrap, versions
from keyvault.models import Approval, AuditRecord
from tests.flows import databases

SUBJECT = {"devices": 1, "transport_key": "ab", "sha256": "cd", "first": []}
TITLE = bytes.fromhex("0024befffe804ff1")


@pytest.fixture(autouse=True)
def required(settings: Settings) -> None:
    settings.REQUIRE_APPROVAL = True


def person(name: str, *groups: str) -> Person:
    user = User.objects.create_user(name)
    user.groups.set(Group.objects.filter(name__in=groups))
    return Person(user, "test")


@pytest.fixture
def ann(db: None) -> Person:
    return person("ann", "key officer")


@pytest.fixture
def ben(db: None) -> Person:
    return person("ben", "administrator")


def again(someone: Person) -> Person:
    """The same account, its rights read anew."""
    return Person(User.objects.get(pk=someone.account.pk), someone.source)


def now() -> datetime:
    return timezone.now()


def asked(by: Person, subject: dict[str, Any] = SUBJECT) -> Approval:
    return approvals.request(EXPORT, subject, "laboratory", by, now())


class TestDeciding:
    def test_another_person_approves(self, ann: Person, ben: Person) -> None:
        asking = asked(ann)
        assert approvals.state(asking, now()) is ApprovalState.WAITING
        assert [*approvals.waiting_for(ben.account, now())] == [asking]
        approved = approvals.approve(asking.pk, ben, now())
        assert approvals.state(approved, now()) is ApprovalState.APPROVED
        assert (approved.requested_by, approved.approved_by) == ("ann", "ben")
        assert not approvals.waiting_for(ben.account, now())
        records = AuditRecord.objects.order_by("number").values_list("actor", "act")
        assert [*records] == [("ann", "approval.request"), ("ben", "approval.approve")]
        chain.verify()

    def test_nobody_approves_what_they_asked_for(self, ann: Person) -> None:
        asking = asked(ann)
        with pytest.raises(ApprovalError, match="another person must approve"):
            approvals.approve(asking.pk, ann, now())
        User.objects.filter(pk=ann.account.pk).update(username="anna")  # renamed, it is the same account
        with pytest.raises(ApprovalError, match="another person must approve"):
            approvals.approve(asking.pk, again(ann), now())
        assert not approvals.waiting_for(ann.account, now())
        with pytest.raises(IntegrityError, match="approval_by_another_account"), transaction.atomic():
            Approval.objects.update(approver=ann.account)
        with pytest.raises(IntegrityError, match="approval_by_another"), transaction.atomic():
            Approval.objects.update(approved_by="ann")

    def test_an_account_made_again_under_the_name_is_not_another(self, ann: Person) -> None:
        asking = asked(ann)
        ann.account.delete()
        reborn = person("ann", "key officer")
        other = person("zoe", "key officer")
        for account in (reborn, other):
            with pytest.raises(ApprovalError, match="has no account any more"):
                approvals.approve(asking.pk, account, now())

    @pytest.mark.parametrize("group", ["operator", "auditor"])
    def test_deciding_takes_the_right(self, ann: Person, group: str) -> None:
        asking = asked(ann)
        outsider = person("olga", group)
        for decide in (approvals.approve, approvals.refuse):
            with pytest.raises(ApprovalError, match=r"lacks the right keyvault\.decide_approval"):
                decide(asking.pk, outsider, now())
        assert not approvals.waiting_for(outsider.account, now())

    @pytest.mark.parametrize("group", ["operator", "auditor", "administrator"])
    def test_asking_takes_the_right_to_the_act(self, db: None, group: str) -> None:
        outsider = person("olga", group)
        for act in (EXPORT, DESTROY):
            with pytest.raises(ApprovalError, match="lacks the right"):
                approvals.request(act, SUBJECT, "why", outsider, now())
        assert not Approval.objects.exists()

    def test_asking_takes_a_reason_and_is_once(self, ann: Person, ben: Person) -> None:
        with pytest.raises(ApprovalError, match="say why"):
            approvals.request(EXPORT, SUBJECT, "  ", ann, now())
        asking = asked(ann)
        with pytest.raises(ApprovalError, match=f"approval {asking.pk} for this stands already: it is waiting"):
            asked(ann)
        approvals.refuse(asking.pk, ben, now())
        assert asked(ann).pk != asking.pk

    def test_what_is_decided_stays_so(self, ann: Person, ben: Person) -> None:
        asking = asked(ann)
        approvals.refuse(asking.pk, ben, now())
        for decide, said in ((approvals.approve, "is refused already"), (approvals.refuse, "is refused already")):
            with pytest.raises(ApprovalError, match=said):
                decide(asking.pk, ben, now())
        with pytest.raises(ApprovalError, match="there is no approval 99"):
            approvals.approve(99, ben, now())

    def test_an_approval_may_be_taken_back(self, ann: Person, ben: Person) -> None:
        asking = asked(ann)
        approvals.approve(asking.pk, ben, now())
        approvals.refuse(asking.pk, ann, now())
        with pytest.raises(ApprovalError, match="needs the approval of a second person"):
            approvals.use(EXPORT, SUBJECT, now())

    def test_it_expires(self, ann: Person, ben: Person, settings: Settings) -> None:
        settings.APPROVAL_EXPIRES_HOURS = 1
        late = now() + timedelta(minutes=61)
        waiting, approved = asked(ann), asked(ann, {**SUBJECT, "sha256": "ef"})
        approvals.approve(approved.pk, ben, now())
        with pytest.raises(ApprovalError, match=f"approval {waiting.pk} is expired"):
            approvals.approve(waiting.pk, ben, late)
        with pytest.raises(ApprovalError, match="needs the approval"):
            approvals.use(EXPORT, approved.subject, late)
        assert not approvals.waiting_for(ben.account, late)
        assert approvals.state(waiting, late) is ApprovalState.EXPIRED
        assert asked(ann, {**SUBJECT, "sha256": "12"}).expires_at <= late

    def test_without_an_audit_record_nothing_is_decided(
        self, ann: Person, ben: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking = asked(ann)

        def broken(*_: Any) -> None:
            raise chain.AuditError("the audit key does not open")

        monkeypatch.setattr(chain, "record", broken)
        with pytest.raises(chain.AuditError):
            approvals.approve(asking.pk, ben, now())
        with pytest.raises(chain.AuditError):
            asked(ann, {**SUBJECT, "sha256": "ef"})
        assert approvals.state(Approval.objects.get(), now()) is ApprovalState.WAITING


class TestUsing:
    def test_once(self, ann: Person, ben: Person) -> None:
        with pytest.raises(ApprovalError, match=r"ask for it with manage\.py approvals request"):
            approvals.use(EXPORT, SUBJECT, now())
        asking = asked(ann)
        with pytest.raises(ApprovalError, match=f"approval {asking.pk} waits for a second person"):
            approvals.use(EXPORT, SUBJECT, now())
        approvals.approve(asking.pk, ben, now())
        approvals.check(EXPORT, SUBJECT, now())
        told = approvals.use(EXPORT, SUBJECT, now())
        assert told == {"approval": asking.pk, "requested_by": "ann", "approved_by": "ben"}
        assert approvals.state(Approval.objects.get(), now()) is ApprovalState.USED
        for act in (approvals.use, approvals.check):
            with pytest.raises(ApprovalError, match="needs the approval"):
                act(EXPORT, SUBJECT, now())

    def test_for_nothing_else(self, ann: Person, ben: Person) -> None:
        approvals.approve(asked(ann).pk, ben, now())
        for act, subject in (
            (DESTROY, SUBJECT),
            (EXPORT, {**SUBJECT, "devices": 2}),
            (EXPORT, {**SUBJECT, "transport_key": "ac"}),
            (EXPORT, {"devices": 1}),
            (EXPORT, {**SUBJECT, "more": 1}),
        ):
            with pytest.raises(ApprovalError):
                approvals.use(act, subject, now())
        assert approvals.use(EXPORT, dict(reversed(SUBJECT.items())), now())

    def test_not_when_one_of_the_two_was_shut_out_since(self, ann: Person, ben: Person) -> None:
        approvals.approve(asked(ann).pk, ben, now())
        for account in (ann.account, ben.account):
            User.objects.filter(pk=account.pk).update(is_active=False)
            with pytest.raises(ApprovalError):
                approvals.use(EXPORT, SUBJECT, now())
            User.objects.filter(pk=account.pk).update(is_active=True)
        ben.account.groups.clear()
        with pytest.raises(ApprovalError):
            approvals.use(EXPORT, SUBJECT, now())

    def test_where_it_is_not_required_nothing_is_asked_or_spent(
        self, ann: Person, ben: Person, settings: Settings
    ) -> None:
        settings.REQUIRE_APPROVAL = False
        approvals.check(EXPORT, SUBJECT, now())
        approvals.approve(asked(ann).pk, ben, now())
        assert approvals.use(EXPORT, SUBJECT, now()) == {}
        assert Approval.objects.get().used_at is None


class TestActs:
    def test_an_export(self, ann: Person, ben: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        provision_devices([TITLE])
        key = TransportKey(bytes(range(7, 39)))
        output = tmp_path / "out"

        def export(titles: list[bytes]) -> Any:
            return key_export.export(titles, key, output, "S", Actor("root", "shell"))

        with pytest.raises(ApprovalError):
            export([TITLE])
        approval = approvals.request(EXPORT, key_export.approval_subject([TITLE], key), "laboratory", ann, now())
        approvals.approve(approval.pk, ben, now())
        other = TransportKey(bytes(range(8, 40)))
        with pytest.raises(ApprovalError):
            key_export.export([TITLE], other, output, "S", Actor("root", "shell"))

        with monkeypatch.context() as broken:  # an export that fails spends nothing
            broken.setattr(key_export, "open_keys", lambda ids: [])
            with pytest.raises(ShipmentError):
                export([TITLE])
        assert not [*tmp_path.iterdir()]
        assert export([TITLE, TITLE]).keys == 1
        record = AuditRecord.objects.latest("number")
        assert (record.actor, record.act, record.subject["approval"]) == ("root", EXPORT, approval.pk)
        assert (record.subject["requested_by"], record.subject["approved_by"]) == ("ann", "ben")
        output.unlink()
        with pytest.raises(ApprovalError):
            export([TITLE])
        assert not [*tmp_path.iterdir()]

    def test_the_destruction_of_a_version(self, ann: Person, ben: Person, settings: Settings, tmp_path: Path) -> None:
        settings.MASTER_KEY_DESTROY_AFTER_DAYS = 0
        settings.MASTER_KEY_FILE = tmp_path / "master.keys"
        master_key.init(settings.MASTER_KEY_FILE)
        rotation = rewrap.begin(100, Actor("root", "shell"))
        while rewrap.rewrap_batch(rotation.pk):
            pass
        later = now() + timedelta(seconds=1)
        with pytest.raises(ApprovalError):
            versions.destroy(1, Actor("root", "shell"), later)
        assert [one.number for one in master_key.provider().versions() if one.state != "destroyed"] == [1, 2]
        approval = approvals.request(DESTROY, versions.approval_subject(1), "old", ann, now())
        approvals.approve(approval.pk, ben, now())
        versions.destroy(1, Actor("root", "shell"), later)
        assert [one.number for one in master_key.provider().versions() if one.state != "destroyed"] == [2]
        begun, done = AuditRecord.objects.filter(act=DESTROY).order_by("number")
        assert begun.subject == done.subject
        assert begun.subject["approval"] == approval.pk
        assert approvals.describe(approval) == "destroy version 1 of the master key"


def test_descriptions_say_what_is_to_be_done() -> None:
    key = TransportKey(bytes(range(7, 39)))
    subject = key_export.approval_subject([TITLE, TITLE, b"12345678"], key)
    text = approvals.describe(Approval(act=EXPORT, subject=subject))
    assert text == f"export the keys of 2 meters, wrapped under transport key {key.fingerprint.hex()}"


class TestRaces:
    """Used and decided at once by several connections."""

    @pytest.fixture
    def db(self, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
        with django_db_blocker.unblock(), databases.copied():
            yield

    def at_once(self, call: Any, threads: int = 6) -> list[bool]:
        barrier = threading.Barrier(threads)

        def run(_: int) -> bool:
            barrier.wait()
            try:
                call()
            except ApprovalError:
                return False
            finally:
                connection.close()
            return True

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run, range(threads)))

    def test_one_alone_uses_and_one_alone_decides(self, ann: Person, ben: Person) -> None:
        for n in range(4):
            subject = {**SUBJECT, "devices": n}
            asking = asked(ann, subject)
            assert sum(self.at_once(lambda: approvals.approve(asking.pk, ben, now()))) == 1  # noqa: B023 - done here
            assert sum(self.at_once(lambda: approvals.use(EXPORT, subject, now()))) == 1  # noqa: B023
        assert AuditRecord.objects.filter(act="approval.approve").count() == 4
