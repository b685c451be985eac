"""Replaying the key journal: what a database lost that was restored is done again, whatever was lost.

A transaction that is rolled back stands for the restore: the database is as it was before, and the journal is not.
"""

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings

from ami_headend.backup import restoring
from concentrators.commands import held_commands, operator
from concentrators.commands.downlink import _Due, _note_offered, _note_sealed, _to_seal
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import CommandRequest, enqueue, enqueue_keys, expire
from concentrators.feed import eras
from concentrators.fleet import registry, tokens
from concentrators.ingest.verification import verify
from concentrators.models import (
    Command,
    CommandKind,
    CommandLimit,
    CommandState,
    Concentrator,
    ConcentratorToken,
    FeedEra,
    RotationWave,
    WaveState,
)
from keyvault import approvals, backups, journal, master_key
from keyvault.approvals import Person
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import (
    agreement_cut_off,
    agreement_keys,
    command_sealing,
    epochs,
    key_rows,
    shipments,
)
from keyvault.device_keys.command_sealing import KeyCommand
from keyvault.device_keys.key_rows import set_key_state
from keyvault.device_keys.provisioning import (
    NewKey,
    create_fleet_key,
    provision_devices,
    provision_pending,
    provision_stored,
)
from keyvault.device_keys.unwrapping import open_keys
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.enrolment.certificates import revoke
from keyvault.journal import reading, replay
from keyvault.journal.replay import ReplayError
from keyvault.journal.segments import JournalRecord
from keyvault.masking import pinned
from keyvault.masking.pinned import MaskAuthorityToPin
from keyvault.models import (
    AgreementKey,
    Approval,
    AuditRecord,
    Authority,
    AwaitedEnrolment,
    Backup,
    DeviceKey,
    DevicePublicKey,
    Enrolment,
    FleetKey,
    InvocationCounter,
    KeyState,
    MaskAuthority,
    MasterKeyRotation,
    RevokedCertificate,
    RotationState,
)
from keyvault.schemes.dlms.security import algorithm_of
from tests.concentrators.enrolling import AUTHORITY, KID, Newcomer, pin
from tests.concentrators.fleet import NOW, Device, commission, judged, post
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault import agreeing
from tests.toy_schemes import toys

pytestmark = pytest.mark.django_db

OFFICER = Actor("officer", "test")
TITLES = [bytes.fromhex("02bd") + number.to_bytes(6, "big") for number in range(5)]


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    return tmp_path / "journal"


def lose(act: Callable[[], object]) -> dict[str, Any]:
    """Do something that the database then does not know of; gives what it knew."""
    with transaction.atomic():
        act()
        known = picture()
        transaction.set_rollback(True)
    return known


def picture() -> dict[str, Any]:
    """All that a restore must not forget."""
    keys = DeviceKey.objects.order_by("system_title", "epoch")
    fields = (
        "pk",
        "system_title",
        "epoch",
        "algorithm",
        "scheme",
        "source",
        "state",
        "fleet_key__name",
        "agreement_key__version",
        "wrapped",
        "fingerprint",
    )
    return {
        "keys": [tuple(map(plain, row)) for row in keys.values_list(*fields)],
        "offered": list(keys.exclude(offered_at=None).values_list("system_title", "epoch")),
        "activated": list(keys.exclude(activated_at=None).values_list("system_title", "epoch")),
        "counters": list(InvocationCounter.objects.order_by("key").values_list("key", "key__version")),
        "fleet keys": list(FleetKey.objects.order_by("pk").values_list("pk", "name")),
        "agreement keys": [
            tuple(map(plain, row))
            for row in AgreementKey.objects.order_by("pk").values_list("pk", "version", "public", "wrapped", "state")
        ],
        "public keys": [
            tuple(map(plain, row))
            for row in DevicePublicKey.objects.order_by("public").values_list("system_title", "public")
        ],
        "authorities": list(
            Authority.objects.order_by("kid").values_list("kid", "issuer", "public", "unpinned_at", "mac")
        ),
        "mask authorities": list(
            MaskAuthority.objects.order_by("name").values_list("name", "url", "public", "withdrawn_at", "mac")
        ),
        "enrolments": list(
            Enrolment.objects.order_by("cti").values_list("cti", "system_title", "epoch", "certificate")
        ),
        "may enrol": list(AwaitedEnrolment.objects.order_by("system_title").values_list("system_title", "scheme")),
        "revoked": list(RevokedCertificate.objects.values_list("cti", "revocation")),
        "concentrators": list(Concentrator.objects.order_by("pk").values_list("pk", "name", "is_active")),
        "tokens": [
            (bytes(digest), label, bool(revoked), expires and int(expires.timestamp()))
            for digest, label, revoked, expires in ConcentratorToken.objects.order_by("digest").values_list(
                "digest", "label", "revoked_at", "expires_at"
            )
        ],
        "eras of the feed": list(FeedEra.objects.order_by("pk").values_list("pk", "parent", "position")),
        "audit": list(AuditRecord.objects.order_by("number").values_list("number", "act")),
    }


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes | memoryview) else value


def bring_up(folder: Path, after: int = 0, now: datetime | None = None) -> replay.ReplayReport:
    found = reading.read([folder], master_key.current(), after)
    assert found.faults == []
    return replay.bring_up(found, restoring.replayers(found), OFFICER, now or timezone.now(), {})


def without_restores(known: dict[str, Any]) -> dict[str, Any]:
    return {**known, "audit": [row for row in known["audit"] if row[1] != "database.restore"]}


def assert_brought_back(folder: Path, act: Callable[[], object]) -> dict[str, Any]:
    known = lose(act)
    before = picture()
    assert before != known
    bring_up(folder)
    assert without_restores(picture()) == known
    chain.verify()
    bring_up(folder)  # from its beginning, over what stands: versions may move, nothing else
    assert {**without_restores(picture()), "counters": None} == {**known, "counters": None}
    return before


# --- keys ----------------------------------------------------------------------------------------------


def test_an_era_of_the_feed_is_known_after_the_next_restore(folder: Path) -> None:
    assert_brought_back(folder, lambda: eras.begin(timezone.now()))
    (first,) = FeedEra.objects.filter(parent=None)
    assert FeedEra.objects.filter(parent=first).count() == 1


def test_new_keys_of_every_kind_come_back(folder: Path) -> None:
    def act() -> None:
        provision_devices(TITLES[:2])
        provision_devices(TITLES[2:4], fleet_key=create_fleet_key("spring"))
        epochs.begin(TITLES[:3])

    assert_brought_back(folder, act)


def test_agreement_keys_and_what_was_agreed_on_come_back(folder: Path) -> None:
    def act() -> None:
        first = agreement_keys.init("hes-1", OFFICER)
        agreeing.provision(agreeing.pairs(TITLES[:2]), first)
        agreement_keys.rotate("hes-1", OFFICER, NOW)
        epochs.begin(TITLES[:1])
        agreement_cut_off.cut_off("hes-1", 1, OFFICER, NOW)

    assert_brought_back(folder, act)
    (key,) = DeviceKey.objects.filter(state=KeyState.COMPROMISED, epoch=1, system_title=TITLES[0])
    assert len(open_keys([key.pk])) == 1


def test_mask_authorities_come_back(folder: Path) -> None:
    def act() -> None:
        for number, name in enumerate(("council", "university"), 1):
            told = MaskAuthorityToPin(name, "https://masks.example", "north", bytes((number,)) * 32)
            pinned.pin(told, OFFICER, NOW)
        pinned.withdraw("council", OFFICER, NOW)

    assert_brought_back(folder, act)
    assert [one.name for one in pinned.asked()] == ["university"]


def test_an_agreement_key_and_a_public_key_of_acts_that_were_not_committed_give_way(folder: Path) -> None:
    privates = agreeing.pairs(TITLES[:1])
    lose(lambda: agreeing.provision(privates, agreement_keys.init("hes-1", OFFICER)))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('keyvault_agreementkey', 'id'), 1000000)")

    def act() -> None:
        key = agreement_keys.init("hes-1", OFFICER)
        agreeing.provision({TITLES[1]: privates[TITLES[0]]}, key)
        agreement_keys.rotate("hes-1", OFFICER, NOW)

    known = lose(act)
    bring_up(folder)
    assert picture()["agreement keys"] == known["agreement keys"]
    assert picture()["public keys"] == [(TITLES[1], privates[TITLES[0]].public_key().public_bytes_raw())]
    assert [(key[1], key[2]) for key in picture()["keys"]] == [(TITLES[1], 0), (TITLES[1], 1)]
    InvocationCounter.objects.update(highest=7)
    bring_up(folder)  # what was committed stays as it is, its counters with it
    assert picture()["agreement keys"] == known["agreement keys"]
    assert set(InvocationCounter.objects.values_list("highest", flat=True)) == {7}


def test_the_scheme_of_a_key_comes_back_and_goes_on_with_the_next_epoch(folder: Path) -> None:
    def act() -> None:
        provision_stored([NewKey(TITLES[0], 0), NewKey(TITLES[0], 1, scheme="toy")])
        epochs.begin(TITLES[:1])

    with toys():
        assert_brought_back(folder, act)
        assert list(DeviceKey.objects.order_by("epoch").values_list("scheme", flat=True)) == ["ccm", "toy", "toy"]


def test_key_sets_of_dlms_come_back_with_all_that_became_of_them(folder: Path) -> None:
    first = NewKey(TITLES[0], 1, secrets.token_bytes(32), algorithm_of(0x30), "dlms")
    suite_2 = NewKey(TITLES[1], 1, secrets.token_bytes(64), algorithm_of(0x32), "dlms")
    clear = NewKey(TITLES[2], 1, secrets.token_bytes(32), algorithm_of(0x20), "dlms without tag")
    following = first._replace(epoch=2, key=secrets.token_bytes(32))
    provision_stored([first])

    def act() -> None:
        provision_stored([first._replace(epoch=0, key=secrets.token_bytes(16)), suite_2, clear])
        provision_pending([following], {})
        epochs.activate(pending_of(TITLES[:1]), timezone.now())
        set_key_state([DeviceKey.objects.get(system_title=TITLES[0], epoch=1).pk], KeyState.RETIRED)
        epochs.compromise([DeviceKey.objects.get(system_title=TITLES[2]).pk], OFFICER)

    assert_brought_back(folder, act)
    opened = {
        (key.system_title, key.epoch): key.octets for key in open_keys(DeviceKey.objects.values_list("pk", flat=True))
    }
    assert opened[TITLES[0], 2] == following.key
    assert opened[TITLES[1], 1] == suite_2.key
    states = dict(DeviceKey.objects.filter(epoch__gt=0).values_list("fingerprint", "state"))
    assert sorted(states.values()) == ["active", "active", "compromised", "retired"]


def test_keys_of_a_journal_from_before_there_were_schemes_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(state: KeyState, keys: Sequence[tuple[Any, ...]], tell: journal.Append) -> None:
        journal_keys(state, [key[:9] for key in keys], tell)

    journal_keys = key_rows.journal_keys
    monkeypatch.setattr(key_rows, "journal_keys", old)
    assert_brought_back(folder, lambda: provision_devices(TITLES[:1]))
    assert set(DeviceKey.objects.values_list("scheme", flat=True)) == {"ccm"}


def with_transfer_keys(count: int, concentrator: Concentrator) -> list[Device]:
    devices = commission(count, concentrator)
    provision_stored([NewKey(device.title, 0) for device in devices])
    return devices


def give_new_keys(devices: list[Device], now: datetime = NOW) -> dict[int, command_sealing.Sealed]:
    """What a concentrator's request does: key commands are sealed, and leave; by number."""
    queued = enqueue_keys([device.meter for device in devices], "tester", now)
    brought = [KeyCommand(row.pk, bytes(row.meter.system_title), row.parameters["epoch"]) for row in queued]
    epochs.offered({command.system_title: command.epoch for command in brought}, now)
    return command_sealing.seal(brought, now)


def leave(concentrator: Concentrator, now: datetime) -> list[Command]:
    """What a concentrator's request does with all that is queued: it is sealed, and leaves."""
    queued = list(Command.objects.filter(state=CommandState.QUEUED).select_related("meter").order_by("pk"))
    due = [_Due(row.pk, bytes(row.meter.system_title), row.kind, row.parameters, 0, False, None) for row in queued]
    epochs.offered({row.system_title: row.parameters["epoch"] for row in due if row.kind == CommandKind.SET_KEY}, now)
    sealed = command_sealing.seal([_to_seal(row, now) for row in due], now)
    _note_offered(concentrator.pk, due, now)
    _note_sealed(concentrator.pk, sealed, now)
    return queued


def test_commands_that_left_are_kept_octet_for_octet(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    devices = with_transfer_keys(2, concentrator)
    standing = enqueue([CommandRequest(devices[0].meter, CommandKind.READ_NOW, {})], "tester", NOW)
    left: list[tuple[Any, ...]] = []
    sealed_as = ("octets", "kid", "key_version", "invocation_counter")
    fields = ("pk", "meter", "kind", "parameters", "created_by", *sealed_as, "offered_to")

    def act() -> None:
        enqueue_keys([device.meter for device in devices], "tester", NOW)
        leave(concentrator, NOW)
        left.extend(Command.objects.order_by("pk").values_list(*fields))

    lose(act)
    assert Command.objects.get().octets is None
    bring_up(folder)
    bring_up(folder)
    kept = list(Command.objects.order_by("pk").values_list(*fields))
    assert [tuple(map(plain, row)) for row in kept] == [tuple(map(plain, row)) for row in left]
    assert set(Command.objects.values_list("state", flat=True)) == {CommandState.OFFERED}
    assert {row[0] for row in left} > {standing[0].pk}
    later = enqueue([CommandRequest(devices[1].meter, CommandKind.READ_NOW, {})], "tester", NOW)
    assert later[0].pk > max(row[0] for row in left)


def test_commands_that_were_held_then_and_left_since_are_open(folder: Path) -> None:
    """Their approval expires with the restore, but the meter may have the key."""
    concentrator = ConcentratorFactory.create()
    (device,) = with_transfer_keys(1, concentrator)
    CommandLimit.objects.create(kind=CommandKind.SET_KEY, span="act", most=0, account=OFFICER.name)
    (held,) = operator.give(device.meter, OperatorOrder(CommandKind.SET_KEY), OFFICER, NOW)
    assert held.state == CommandState.HELD
    second = User.objects.create_superuser("second")

    def act() -> None:
        approvals.approve(held.approval_id or 0, Person(second, "test"), NOW)
        leave(concentrator, NOW)

    lose(act)
    bring_up(folder)
    held_commands.drop_expired(timezone.now())
    held.refresh_from_db()
    assert (held.state, held.octets is None) == (CommandState.OFFERED, False)
    assert held.expires_at == NOW + timedelta(seconds=settings.COMMAND_EXPIRES_S)
    assert DeviceKey.objects.get(system_title=device.title, epoch=2).state == KeyState.PENDING


def test_key_commands_whose_key_arrived_are_done_and_the_others_are_open(folder: Path) -> None:
    """What was heard of the first and the last is in the journal alone. One is open, and expires in its time."""
    concentrator = ConcentratorFactory.create()
    devices = with_transfer_keys(3, concentrator)
    arrived_at = NOW + timedelta(hours=1)
    enqueue_keys([devices[2].meter], "tester", NOW)  # in the backup as queued

    def act() -> None:
        enqueue_keys([device.meter for device in devices[:2]], "tester", NOW)
        leave(concentrator, NOW)
        epochs.activate(pending_of([devices[0].title, devices[2].title]), arrived_at)

    lose(act)
    bring_up(folder)
    states = {bytes(row.meter.system_title): (row.state, row.ended_at) for row in Command.objects.all()}
    done = CommandState.DONE, arrived_at.replace(microsecond=0)
    assert states == {devices[0].title: done, devices[1].title: (CommandState.OFFERED, None), devices[2].title: done}
    assert expire(NOW + timedelta(days=400)) == 1


def test_commands_that_left_are_due_by_the_clock_of_the_head_end(folder: Path) -> None:
    """That of the database may be ahead: here by whatever lies between."""
    concentrator = ConcentratorFactory.create()
    device = with_transfer_keys(1, concentrator)[0]

    def act() -> None:
        enqueue_keys([device.meter], "tester", NOW)
        leave(concentrator, NOW)

    lose(act)
    bring_up(folder)
    assert Command.objects.get().next_attempt_at == NOW.replace(microsecond=0)


def pending_of(titles: list[bytes]) -> list[int]:
    return list(DeviceKey.objects.filter(system_title__in=titles, state=KeyState.PENDING).values_list("pk", flat=True))


def test_the_whole_life_of_keys_comes_back(folder: Path) -> None:
    provision_devices(TITLES)

    def act() -> None:
        epochs.begin(TITLES[:4])
        epochs.activate(pending_of(TITLES[:2]), timezone.now())
        epochs.begin(TITLES[:1])
        epochs.activate(pending_of(TITLES[:1]), timezone.now())
        first = DeviceKey.objects.get(system_title=TITLES[0], epoch=1)
        set_key_state([first.pk], KeyState.RETIRED)
        epochs.cancel(TITLES[2:3])
        epochs.begin(TITLES[2:3])
        epochs.cancel(TITLES[3:4])
        epochs.compromise([DeviceKey.objects.get(system_title=TITLES[4], epoch=1).pk], OFFICER)

    assert_brought_back(folder, act)
    states = dict(DeviceKey.objects.filter(system_title=TITLES[0]).values_list("epoch", "state"))
    assert states == {0: "active", 1: "retired", 2: "retiring", 3: "active"}
    assert DeviceKey.objects.get(system_title=TITLES[4], epoch=1).state == KeyState.COMPROMISED


def test_a_compromised_key_stays_so_whatever_came_later(folder: Path) -> None:
    provision_devices(TITLES[:1])

    def act() -> None:
        epochs.begin(TITLES[:1])
        pending = pending_of(TITLES[:1])
        epochs.compromise(pending, OFFICER)
        journal.append(
            "activated", [1, [[TITLES[0], 2, bytes(DeviceKey.objects.get(pk=pending[0]).fingerprint or b"")]]]
        )
        journal.append("state", ["retired", [[TITLES[0], 2, None]]])

    lose(act)
    bring_up(folder)
    assert DeviceKey.objects.get(system_title=TITLES[0], epoch=2).state == KeyState.COMPROMISED


def test_an_act_that_was_not_committed_gives_way_to_the_one_that_was(folder: Path) -> None:
    provision_devices(TITLES[:1])
    lose(lambda: epochs.begin(TITLES[:1]))
    lose(lambda: create_fleet_key("spring"))

    def act() -> None:
        create_fleet_key("spring")
        epochs.begin(TITLES[:1])

    known = lose(act)
    bring_up(folder)
    assert [row[1:] for row in picture()["keys"]] == [row[1:] for row in known["keys"]]
    assert [name for _, name in picture()["fleet keys"]] == ["spring"]


def test_a_key_that_frames_came_under_is_not_replaced(folder: Path) -> None:
    provision_devices(TITLES[:1])
    lose(lambda: epochs.begin(TITLES[:1]))  # never committed
    epochs.begin(TITLES[:1])
    key = DeviceKey.objects.get(system_title=TITLES[0], epoch=2)
    epochs.activate([key.pk], timezone.now())
    InvocationCounter.objects.filter(key=key).update(highest=7)
    bring_up(folder)
    after = DeviceKey.objects.get(pk=key.pk)
    assert (after.state, after.fingerprint) == (KeyState.ACTIVE, key.fingerprint)
    assert InvocationCounter.objects.get(key=key).highest == 7


def test_a_cancelled_key_that_left_after_all_is_kept(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    [device] = with_transfer_keys(1, concentrator)
    enqueue_keys([device.meter], "tester", NOW)

    def act() -> None:
        with transaction.atomic():
            epochs.cancel([device.title])  # journaled, and the process died
            transaction.set_rollback(True)
        give_new_keys([device])

    lose(act)
    bring_up(folder)
    key = DeviceKey.objects.get(system_title=device.title, epoch=2)
    assert key.state == KeyState.PENDING
    assert key.offered_at is not None


def test_a_transfer_key_of_a_shipment_comes_back(folder: Path) -> None:
    provision_devices(TITLES[:1])
    standing = DeviceKey.objects.get(system_title=TITLES[0], epoch=0)
    arrived = shipments._Arrived(1, TITLES[0], 0, None, bytes(range(32)), b"newprint")
    row = shipments._Standing(standing.pk, standing.algorithm, standing.state, standing.version, b"oldprint", "ccm")

    def act() -> None:
        epochs.compromise([standing.pk], OFFICER)
        fresh = row._replace(version=DeviceKey.objects.get(pk=standing.pk).version)
        shipments._replace([(fresh, arrived)])

    assert_brought_back(folder, act)
    after = DeviceKey.objects.get(pk=standing.pk)
    assert (after.state, bytes(after.fingerprint or b"")) == (KeyState.ACTIVE, b"newprint")


# --- commands, counters, nonces ------------------------------------------------------------------------


def test_commands_never_use_a_counter_or_a_number_again(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    devices = with_transfer_keys(3, concentrator)
    sent: dict[int, command_sealing.Sealed] = {}
    lose(lambda: sent.update(give_new_keys(devices)))
    assert len(sent) == 3
    bring_up(folder)
    assert not Command.objects.exists()
    again = give_new_keys(devices, NOW - timedelta(days=1))  # the clock went back meanwhile: the counters do not
    assert len(again) == 3
    last = {one.kid: one.counter for one in sent.values()}
    assert all(one.counter > last[one.kid] for one in again.values())
    assert set(DeviceKey.objects.filter(state=KeyState.PENDING).values_list("epoch", flat=True)) == {2}


def test_a_meter_with_a_key_that_only_the_journal_knows_is_heard(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    [device] = with_transfer_keys(1, concentrator)
    renewed: list[Device] = []

    def act() -> None:
        give_new_keys([device])
        [key] = open_keys(pending_of([device.title]))
        renewed.append(Device(device.meter, key.octets, 2))

    lose(act)
    uplink = post(concentrator, [renewed[0].frame(1, 100, counter=0), device.frame(2, 100, counter=2)])
    bring_up(folder)
    verdicts = verify(uplink.pk)
    assert verdicts is not None
    assert verdicts.accepted == 2


def test_a_clock_that_is_behind_the_journal_is_refused(folder: Path) -> None:
    lose(lambda: provision_devices(TITLES[:1]))
    with pytest.raises(ReplayError, match="set the clock right first"):
        bring_up(folder, now=timezone.now() - timedelta(minutes=5))
    assert not DeviceKey.objects.exists()


# --- the rest ------------------------------------------------------------------------------------------


def test_access_comes_back_as_it_was(folder: Path) -> None:
    kept: Concentrator = ConcentratorFactory.create()
    tokens.issue(kept, "old")
    stolen = ConcentratorToken.objects.get()

    def act() -> None:
        tokens.revoke(stolen)
        tokens.issue(kept, "new", datetime(2027, 1, 1, tzinfo=UTC))
        new = Concentrator(name="DCU-new")
        registry.save(new)
        tokens.issue(new, "first")
        kept.is_active, kept.name = False, "DCU-old"
        registry.save(kept, ["is_active", "name"])

    assert_brought_back(folder, act)
    fresh = Concentrator(name="DCU-newer")
    registry.save(fresh)
    assert fresh.pk > Concentrator.objects.get(name="DCU-new").pk


def test_the_audit_chain_goes_on_where_it_was(folder: Path) -> None:
    with transaction.atomic():
        chain.record(OFFICER, "before", {})
    heads: list[chain.Head] = []

    def act() -> None:
        lose_one = Actor("nobody", "test")
        with transaction.atomic():
            chain.record(lose_one, "never committed", {})
            transaction.set_rollback(True)
        heads.append(chain.record(OFFICER, "export", {"keys": 1}))

    lose(act)
    bring_up(folder)
    assert chain.verify(heads[0]).number == heads[0].number + 1
    assert list(AuditRecord.objects.order_by("number").values_list("act", flat=True))[-2:] == [
        "export",
        "database.restore",
    ]


def test_records_of_the_chain_that_do_not_follow_are_not_put_in(folder: Path) -> None:
    with transaction.atomic():
        chain.record(OFFICER, "before", {})
    lose(lambda: [chain.record(OFFICER, f"act {number}", {}) for number in range(3)])
    found = reading.read([folder], master_key.current())
    [first] = [record for record in found if record.kind == "audit" and record.body[0]["act"] == "act 0"]
    outcome = bring_up(folder, after=first.number)
    assert any("2 records of the audit chain could not be put back" in note for note in outcome.notes)
    assert outcome.unchained == 2
    chain.verify()


def test_acts_that_an_earlier_restore_gave_up_are_not_missed(folder: Path) -> None:
    with transaction.atomic():
        chain.record(OFFICER, "before", {})
    kept = reading.read([folder], master_key.current()).last_number
    lose(lambda: [chain.record(OFFICER, f"act {number}", {}) for number in range(3)])
    away = folder.rename(folder.with_name("away"))
    folder.mkdir(mode=0o700)
    bring_up(folder)  # the chain goes on from the head before them
    found = reading.read([folder, away], master_key.current(), kept)
    assert [record.body[0]["act"] for record in found if record.kind == "audit"][-1] == "database.restore"
    assert replay.apply(found, restoring.replayers(found), timezone.now()).unchained == 0


def test_what_must_not_go_on_is_settled(folder: Path) -> None:
    now = timezone.now()
    wave = RotationWave.objects.create(name="spring", rate_per_hour=10, failure_budget=1, created_by="tester")
    MasterKeyRotation.objects.create(to_version=99, batch_size=1, total=1, beat_at=now)
    Approval.objects.create(act="keys.export", requested_by="a", approved_by="b", expires_at=now + timedelta(days=1))
    provision_devices(TITLES[:2])
    outcome = bring_up(folder)
    wave.refresh_from_db()
    assert wave.state == WaveState.PAUSED
    assert MasterKeyRotation.objects.get().state == RotationState.FINISHED
    assert Approval.objects.get().expires_at <= timezone.now()
    told = " ".join(outcome.notes)
    for words in ("1 rotation wave is paused", "2 devices have keys, but no meter", "1 open approval is", "--resume"):
        assert words in told


def test_numbers_of_the_journal_go_on_after_the_last(folder: Path) -> None:
    provision_devices(TITLES[:1])
    last = reading.read([folder], master_key.current()).last_number
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('keyvault_journal_number', 1)")
    bring_up(folder)
    provision_devices(TITLES[1:2])
    assert reading.read([folder], master_key.current()).last_number > last + 1


def test_a_kind_of_a_newer_release_stops_it_and_changes_nothing(folder: Path) -> None:
    provision_devices(TITLES[:1])
    lose(lambda: set_key_state(list(DeviceKey.objects.values_list("pk", flat=True)), KeyState.RETIRED))
    with transaction.atomic():
        journal.append("of the future", [])
    with pytest.raises(ReplayError, match="'of the future', which this release does not know"):
        bring_up(folder)
    assert set(DeviceKey.objects.values_list("state", flat=True)) == {KeyState.ACTIVE}


@pytest.fixture
def _paused() -> None:
    replay.pause()


@pytest.mark.usefixtures("_paused")
def test_a_replay_opens_what_was_paused(folder: Path) -> None:
    folder.mkdir()
    assert not journal.is_open()
    bring_up(folder)
    assert journal.is_open()


def test_backups_are_known_again(folder: Path) -> None:
    def act() -> None:
        now = timezone.now()
        made = [backups.register(f"b{number}", "here:/b", now, OFFICER, now) for number in range(2)]
        backups.finish(made[0], bytes(32), 5, OFFICER, now)
        backups.forget(made[1], OFFICER, now, "deleted")

    lose(act)
    bring_up(folder)
    assert list(backups.retained().values_list("name", "octets")) == [("b0", 5)]
    assert Backup.objects.count() == 2


def test_batches_cost_the_same_number_of_statements(folder: Path) -> None:
    costs = []
    for size, base in ((1, 0), (2, 10), (200, 1000)):
        titles = [bytes.fromhex("02be") + (base + number).to_bytes(6, "big") for number in range(size)]
        last = reading.read([folder], master_key.current()).last_number if folder.exists() else 0
        lose(lambda: provision_devices(titles))  # noqa: B023 - called at once
        with counting() as statements:
            bring_up(folder, after=last)
        costs.append(len(statements))
    assert costs[1] == costs[2]


def test_records_show_what_they_are() -> None:
    assert JournalRecord(1, 2_500_000, "test", None).at_s == 2.5


def test_enrolments_authorities_and_revocations_come_back(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    meters = MeterFactory.create_batch(3)
    agreement_keys.init("hes-1", OFFICER)
    newcomers: list[Newcomer] = []

    def act() -> None:
        pin()
        newcomers[:] = [Newcomer(meter, agreement_keys.active()) for meter in meters]
        authorities.allow([one.title for one in newcomers], OFFICER, NOW)
        frames = [one.frame(one.certificate(cti=one.title)) for one in newcomers[:2]]
        assert judged(concentrator, frames) == {"accepted": 2}
        authorities.revoke(revoke(AUTHORITY, KID, newcomers[0].title, int(NOW.timestamp())), OFFICER, NOW)
        authorities.pin(PublicAuthority(b"gone", "another", bytes((0x11,)) * 32), OFFICER, NOW)
        authorities.unpin(b"gone", OFFICER, NOW)

    assert_brought_back(folder, act)
    first, second, third = newcomers
    again = [one.frame(one.certificate(cti=one.title), 1) for one in (first, second)]
    assert judged(concentrator, again) == {"accepted": 2}  # keys came back, and what enrolled them
    assert judged(concentrator, [third.frame(third.certificate(cti=first.title))]) == {"certificate_revoked": 1}
    assert judged(concentrator, [third.frame(third.certificate(cti=second.title))]) == {"already_enrolled": 1}
    assert judged(concentrator, [third.frame(third.certificate())]) == {"accepted": 1}


def test_leave_to_enrol_again_in_the_second_of_the_enrolment_comes_back(folder: Path) -> None:
    concentrator = ConcentratorFactory.create()
    meter = MeterFactory.create()
    agreement_keys.init("hes-1", OFFICER)

    def act() -> None:
        pin()
        newcomer = Newcomer(meter, agreement_keys.active())
        authorities.allow([newcomer.title], OFFICER, NOW)
        assert judged(concentrator, [newcomer.frame(newcomer.certificate())]) == {"accepted": 1}
        authorities.allow([newcomer.title], OFFICER, Enrolment.objects.get().enrolled_at)

    assert_brought_back(folder, act)
    assert authorities.awaited().count() == 1


def test_a_key_of_the_same_octets_comes_back_for_the_scheme_that_was_committed(folder: Path) -> None:
    """A derived or agreed key is the same in every scheme: the fingerprint does not tell them apart."""
    provision_devices(TITLES[:1], fleet_key=create_fleet_key("spring"))

    def act() -> None:
        with transaction.atomic():
            epochs.begin(TITLES[:1], 11, scheme="ccm")  # journaled, and the process died
            transaction.set_rollback(True)
        epochs.begin(TITLES[:1], scheme="session")

    lose(act)
    bring_up(folder)
    key = DeviceKey.objects.get(system_title=TITLES[0], epoch=2)
    assert (key.scheme, key.algorithm) == ("session", 10)
