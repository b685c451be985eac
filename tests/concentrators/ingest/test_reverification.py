"""Frames that waited for a key are judged again, each exactly once; verdicts, evidence, tallies and totals move."""

import random
import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from concentrators import retention
from concentrators.failures.kinds import WAITING
from concentrators.ingest import verification
from concentrators.ingest.decisions import Verdicts
from concentrators.ingest.facts import Delivery
from concentrators.ingest.reverification import ready, verify_again, verify_all_again, waiting_uplinks
from concentrators.ingest.transaction_retry import TransientError
from concentrators.ingest.worker import Worker
from concentrators.models import Assignment, Concentrator, FailureTally, IntegrityFailure, IntervalTotal, Uplink
from concentrators.totals import totals
from keyvault import master_key
from keyvault.device_keys.provisioning import NewKey, provision_stored
from keyvault.master_key import MasterKeyError
from keyvault.models import AuditRecord, DeviceKey
from keyvault.opening import Frames
from keyvault.replay_window_store import Care
from meters.contents.plain import PlainReader
from meters.models import Meter
from tests.concentrators.fleet import (
    NOW,
    START,
    WINDOW,
    Device,
    commission,
    evidence,
    judged,
    outcome,
    post,
    readings_of,
    tallies,
    verified,
)
from tests.concentrators.statements import Statements
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.shipping import line, shipment_file, transport_file

pytestmark = pytest.mark.django_db


def registered(count: int, concentrator: Concentrator) -> list[Device]:
    """Meters whose keys the head-end has not yet."""
    meters = MeterFactory.create_batch(count)
    Assignment.objects.bulk_create(
        [Assignment(meter=meter, concentrator=concentrator, valid_from=NOW - timedelta(days=4000)) for meter in meters]
    )
    return [Device(meter, secrets.token_bytes(32)) for meter in meters]


def give_keys(devices: Sequence[Device]) -> None:
    provision_stored([NewKey(device.title, device.epoch, device.key, device.alg) for device in devices])


def again(uplink: Uplink) -> dict[str, int]:
    """Verifies an uplink again; gives all its verdicts, which add up, as do evidence and what waits."""
    verify_again(uplink.pk)
    uplink.refresh_from_db()
    consistent(uplink)
    return outcome(uplink)


def consistent(uplink: Uplink) -> None:
    assert uplink.accepted + uplink.duplicate + uplink.rejected == uplink.frames
    assert sum(uplink.failures.values()) == uplink.rejected
    assert 0 not in uplink.failures.values()
    kinds = {kind.value: uplink.failures[kind] for kind in WAITING if kind in uplink.failures}
    assert {kind: len(indexes) for kind, indexes in (uplink.waiting_frames or {}).items()} == kinds
    assert uplink.waiting == sum(kinds.values())
    if uplink.waiting == 0:
        assert uplink.waiting_frames is None


def test_waiting_frames_become_readings_once(concentrator: Concentrator) -> None:
    (known,) = commission(1, concentrator)
    waiting, other = registered(2, concentrator)
    uplink = verified(
        concentrator, [known.frame(0), waiting.frame(0), b"noise", waiting.frame(1, 7), other.frame(0), known.frame(1)]
    )
    assert uplink.waiting_frames == {"unknown_device": [1, 3, 4]}
    kept = {row.pk for row in evidence(uplink) if row.frame_index in (2, 4)}
    verified_at = uplink.verified_at
    assert again(uplink) == {"accepted": 2, "unknown_device": 3, "malformed": 1}

    give_keys([waiting])
    assert again(uplink) == {"accepted": 4, "unknown_device": 1, "malformed": 1}
    assert uplink.waiting_frames == {"unknown_device": [4]}
    assert readings_of(waiting) == {0: 100, 1: 7}
    assert {row.pk for row in evidence(uplink)} == kept
    assert tallies(concentrator) == {"unknown_device": 1, "malformed": 1}
    assert (uplink.received_at, uplink.verified_at) == (NOW, verified_at)
    assert (waiting.counter().highest, waiting.counter().heard_at) == (1, NOW)

    assert again(uplink) == {"accepted": 4, "unknown_device": 1, "malformed": 1}
    give_keys([other])
    assert again(uplink) == {"accepted": 5, "malformed": 1}
    assert tallies(concentrator) == {"malformed": 1}
    assert not FailureTally.objects.filter(failures=0).exists()
    assert IntervalTotal.objects.get(interval_start=START).meters_counted == 3
    assert totals.compare(*WINDOW) == []
    assert waiting_uplinks() == []


def test_both_kinds_of_waiting(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    (stranger,) = registered(1, concentrator)
    later = Device(device.meter, secrets.token_bytes(32), epoch=2)
    uplink = verified(concentrator, [later.frame(0), stranger.frame(0), later.frame(1)])
    assert uplink.waiting_frames == {"unknown_epoch": [0, 2], "unknown_device": [1]}
    DeviceKey.objects.filter(pk=device.row().pk).update(state="retiring")
    give_keys([later])
    assert again(uplink) == {"accepted": 2, "unknown_device": 1}
    assert tallies(concentrator) == {"unknown_device": 1}


def test_beyond_the_cap_of_rows_nothing_is_lost(concentrator: Concentrator, settings: Settings) -> None:
    settings.FAILURE_ROWS_PER_HOUR = 3
    devices = registered(10, concentrator)
    uplink = verified(concentrator, [device.frame(n) for device in devices for n in range(2)])
    assert len(evidence(uplink)) == 3
    give_keys(devices[1:6])
    assert again(uplink) == {"accepted": 10, "unknown_device": 10}
    assert [row.frame_index for row in evidence(uplink)] == [0, 1]
    assert tallies(concentrator) == {"unknown_device": 10}
    give_keys([devices[0], *devices[6:]])
    assert again(uplink) == {"accepted": 20}
    assert (evidence(uplink), tallies(concentrator)) == ([], {})
    assert all(readings_of(device) == {0: 100, 1: 100} for device in devices)


def test_a_frame_that_came_again_meanwhile_counts_once(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    (device,) = registered(1, concentrator)
    frames = [device.frame(0), device.frame(1)]
    first = verified(concentrator, [*frames, frames[0]])
    give_keys([device])
    second = verified(other_concentrator, [frames[0]])
    assert outcome(second) == {"accepted": 1}
    assert again(first) == {"accepted": 1, "duplicate": 2}
    assert readings_of(device) == {0: 100, 1: 100}
    assert totals.compare(*WINDOW) == []


def test_a_conflict_stays_a_conflict_however_often_it_comes(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    """The counter is taken by the first of them; what the others once waited for is no answer to what became of it."""
    (device,) = registered(1, concentrator)
    frames = [device.frame(0, 1), device.frame(0, 2)]
    postings = (concentrator, other_concentrator, ConcentratorFactory.create())
    earlier = [verified(posting, frames) for posting in postings]
    give_keys([device])
    assert [again(uplink) for uplink in earlier] == [
        {"accepted": 1, "reading_conflict": 1},
        {"duplicate": 1, "reading_conflict": 1},
        {"duplicate": 1, "reading_conflict": 1},
    ]
    assert judged(concentrator, frames[1:]) == {"reading_conflict": 1}
    assert readings_of(device) == {0: 1}


def test_a_frame_refused_as_suspended_says_nothing_of_its_counter(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator)
    first, second = device.frame(0, 1), device.frame(0, 2)
    Meter.objects.filter(pk=device.meter.pk).update(status="suspended")
    assert judged(concentrator, [second]) == {"device_suspended": 1}
    Meter.objects.filter(pk=device.meter.pk).update(status="commissioned")
    assert judged(concentrator, [first, second]) == {"accepted": 1, "reading_conflict": 1}
    assert judged(concentrator, [second, b"more"]) == {"reading_conflict": 1, "malformed": 1}


def test_time_is_judged_as_of_the_receipt(concentrator: Concentrator) -> None:
    (device,) = registered(1, concentrator)
    uplink = verified(concentrator, [device.frame(0), device.frame(10)], START + timedelta(hours=1))
    give_keys([device])
    assert again(uplink) == {"accepted": 1, "clock_skew": 1}
    (failure,) = evidence(uplink)
    assert (failure.kind, failure.frame_index, failure.received_at) == ("clock_skew", 1, START + timedelta(hours=1))
    assert failure.meter_id == device.meter.pk


def test_a_key_that_does_not_fit_ends_the_waiting(concentrator: Concentrator) -> None:
    (device,) = registered(1, concentrator)
    uplink = verified(concentrator, [device.frame(0)])
    provision_stored([NewKey(device.title, 1)])
    assert again(uplink) == {"tag_invalid": 1}
    assert tallies(concentrator) == {"tag_invalid": 1}


def test_a_key_without_a_meter_waits_on(concentrator: Concentrator) -> None:
    device = Device(MeterFactory.build(), secrets.token_bytes(32))
    give_keys([device])
    uplink = verified(concentrator, [device.frame(0)])
    row = evidence(uplink)
    assert again(uplink) == {"unknown_device": 1}
    assert evidence(uplink) == row
    device.meter.save()
    assert again(uplink) == {"accepted": 1}


def test_a_key_that_goes_again_while_it_is_judged(concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = registered(2, concentrator)
    uplink = verified(concentrator, [device.frame(0) for device in devices])
    give_keys(devices)

    judge = Worker.judge

    def forget_then_judge(worker: Worker, uplinks: Sequence[tuple[Delivery, Frames]], care: Care) -> list[Verdicts]:
        devices[0].counter().delete()
        DeviceKey.objects.filter(system_title=devices[0].title).delete()
        return judge(worker, uplinks, care)

    monkeypatch.setattr(Worker, "judge", forget_then_judge)
    assert again(uplink) == {"accepted": 1, "unknown_device": 1}
    assert uplink.waiting_frames == {"unknown_device": [0]}
    assert [row.frame_index for row in evidence(uplink)] == [0]
    assert tallies(concentrator) == {"unknown_device": 1}


def test_a_frame_that_cannot_be_processed_is_parked(
    concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = registered(1, concentrator)
    uplink = verified(concentrator, [device.frame(n) for n in range(8)])
    give_keys([device])
    read = PlainReader.read

    def choke(reader: PlainReader, payload: bytes, *args: object) -> object:
        values = read(reader, payload, *args)  # type: ignore[arg-type]
        if values[0].value == 10_005:
            raise ZeroDivisionError
        return values

    monkeypatch.setattr(PlainReader, "read", choke)
    for _ in range(2):
        assert again(uplink) == {"accepted": 7, "parked": 1}
        assert [(row.kind, row.frame_index) for row in evidence(uplink)] == [("parked", 5)]
        assert tallies(concentrator) == {"parked": 1}
    monkeypatch.undo()  # mended
    assert again(uplink) == {"accepted": 8}
    assert tallies(concentrator) == {}
    assert len(readings_of(device)) == 8


def test_without_the_master_key_nothing_moves(concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = registered(1, concentrator)
    uplink = verified(concentrator, [device.frame(0)])
    give_keys([device])

    def away() -> None:
        raise MasterKeyError("the token does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(master_key, "current", away)
        with pytest.raises(TransientError, match="the token does not answer"):
            verify_again(uplink.pk)
        with pytest.raises(CommandError, match="run the command again"):
            call_command("verify_again", "--all-waiting")
    uplink.refresh_from_db()
    assert outcome(uplink) == {"unknown_device": 1}
    assert len(evidence(uplink)) == 1
    assert again(uplink) == {"accepted": 1}


def test_octets_that_waited_go_once_they_do_not(concentrator: Concentrator, settings: Settings) -> None:
    (device,) = registered(1, concentrator)
    uplink = verified(concentrator, [device.frame(0)])
    give_keys([device])
    again(uplink)
    assert retention.delete_bodies(NOW + timedelta(days=settings.UPLINK_KEEP_DAYS, seconds=1)) == 1
    assert verify_again(uplink.pk) == Verdicts()


def test_what_is_no_waiting_uplink_is_let_be(concentrator: Concentrator) -> None:
    (device,) = registered(1, concentrator)
    unverified = post(concentrator, [device.frame(0)])
    give_keys([device])
    for uplink_id in (unverified.pk, 10**12):
        assert verify_again(uplink_id) == Verdicts()
    verification.verify(unverified.pk)
    assert readings_of(device) == {0: 100}


@pytest.mark.parametrize("frames", [1, 40])
def test_statements_do_not_grow_with_frames(concentrator: Concentrator, statements: Statements, frames: int) -> None:
    devices = registered(frames, concentrator)
    uplink = verified(concentrator, [device.frame(0) for device in devices])
    give_keys(devices)
    statements.take()
    verify_again(uplink.pk)
    assert len(statements.take()) <= 32


@pytest.mark.parametrize("seed", range(12))
def test_random_uplinks_with_keys_in_pieces(
    concentrator: Concentrator, other_concentrator: Concentrator, seed: int
) -> None:
    """Whatever order keys come in, the end is as if every key had been there: everything exactly once."""
    dice = random.Random(seed)
    devices = commission(3, concentrator) + registered(6, other_concentrator)
    known = devices[:3]
    sent: list[tuple[Device, bytes]] = []
    said: dict[bytes, dict[int, int]] = {}
    posted: list[Uplink] = []
    coming = devices[3:]

    def frame() -> bytes:
        if sent and dice.random() < 0.35:
            return dice.choice(sent)[1]
        device = dice.choice(devices)
        interval = dice.randrange(40)
        values = said.setdefault(device.title, {})
        octets = device.frame(interval, values.setdefault(interval, dice.randrange(1000)))
        sent.append((device, octets))
        return octets

    while coming or len(posted) < 8:
        octets = [frame() for _ in range(dice.randint(1, 25))] + [b"\xff" + secrets.token_bytes(4)]
        posted.append(verified(dice.choice((concentrator, other_concentrator)), octets))
        if coming and dice.random() < 0.6:
            arrived = [coming.pop() for _ in range(min(len(coming), dice.randint(1, 3)))]
            give_keys(arrived)
            known += arrived
        if dice.random() < 0.5:
            titles = {dice.choice(devices).title for _ in range(3)} if dice.random() < 0.5 else None
            for _ in range(dice.randint(1, 2)):
                verify_all_again(waiting_uplinks(), titles)
    verify_all_again(waiting_uplinks())
    assert verify_all_again(waiting_uplinks()).uplinks == 0

    counted: Counter[str] = Counter()
    for uplink in posted:
        uplink.refresh_from_db()
        consistent(uplink)
        counted.update(outcome(uplink))
    frames = sum(uplink.frames for uplink in posted)
    unique = len({octets for _, octets in sent})
    assert counted == {"accepted": unique, "duplicate": frames - unique - len(posted), "malformed": len(posted)}
    for device in devices:
        assert readings_of(device) == said.get(device.title, {})
    assert totals.compare(*WINDOW) == []
    assert IntegrityFailure.objects.count() == len(posted)
    assert sum(FailureTally.objects.values_list("failures", flat=True)) == len(posted)


class TestCommands:
    @pytest.fixture
    def shipped(self, concentrator: Concentrator, tmp_path: Path) -> tuple[list[Device], Path, Path, Uplink]:
        devices = registered(3, concentrator)
        uplink = verified(concentrator, [device.frame(n) for device in devices for n in range(2)])
        lines = [line(device.title, key=device.key) for device in devices[:2]]
        return devices, shipment_file(tmp_path, lines), transport_file(tmp_path), uplink

    def run(self, *words: object) -> str:
        out = StringIO()
        call_command(*map(str, words), stdout=out)
        return out.getvalue()

    def test_import_keys_verifies_what_waited(
        self, shipped: tuple[list[Device], Path, Path, Uplink], capsys: pytest.CaptureFixture[str]
    ) -> None:
        devices, path, key_file, uplink = shipped
        said = self.run("import_keys", path, "--transport-key", key_file, "--dry-run")
        assert said.startswith("Would import S-1: 2 active keys, 0 pending, 2 transfer keys, 0 unchanged.")
        assert not AuditRecord.objects.exists()
        sha256 = said.split()[-1]
        said = self.run("import_keys", path, "--transport-key", key_file, "--sha256", sha256)
        assert "4 waiting frames of 1 uplink judged: 4 accepted, 0 duplicate, 0 rejected." in said
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": 4, "unknown_device": 2}
        said = self.run("import_keys", path, "--transport-key", key_file)
        assert "4 unchanged" in said
        assert "0 waiting frames of 0 uplinks judged" in said
        assert readings_of(devices[0]) == {0: 100, 1: 100}
        assert devices[0].key.hex() not in said + capsys.readouterr().err

    def test_import_keys_refuses_in_clear_sentences(
        self, shipped: tuple[list[Device], Path, Path, Uplink], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, path, key_file, _ = shipped
        with pytest.raises(CommandError, match=r"not the one given with --sha256\. Nothing was imported"):
            self.run("import_keys", path, "--transport-key", key_file, "--sha256", "00" * 32)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]))
        with pytest.raises(CommandError, match=r"the file is cut off\. Nothing was imported"):
            self.run("import_keys", path, "--transport-key", key_file)
        bad = shipment_file(tmp_path, [line(n.to_bytes(8, "big"), epoch=0) for n in range(60)])
        with pytest.raises(CommandError, match="60 bad lines: nothing was imported"):
            self.run("import_keys", bad, "--transport-key", key_file)
        printed = capsys.readouterr().err.strip().splitlines()
        assert printed[0] == "line 2: epoch is not a whole number from 1 to 65535"
        assert printed[-1] == "and 10 more"
        key_file.write_bytes(secrets.token_bytes(32))
        with pytest.raises(CommandError, match="wrong transport key: the shipment is wrapped under"):
            self.run("import_keys", bad, "--transport-key", key_file)
        key_file.chmod(0o644)
        with pytest.raises(CommandError, match="Make it 0600"):
            self.run("import_keys", bad, "--transport-key", key_file)
        assert not DeviceKey.objects.exists()

    def test_verify_again(self, shipped: tuple[list[Device], Path, Path, Uplink], concentrator: Concentrator) -> None:
        devices, _, _, uplink = shipped
        other = verified(concentrator, [devices[2].frame(5)])
        give_keys(devices)
        assert self.run("verify_again", "--all-waiting", "--dry-run").startswith("7 waiting frames of 2 uplinks can be")
        assert self.run("verify_again", "--meters", devices[0].title.hex()).startswith("2 waiting frames of 1 uplink")
        assert self.run("verify_again", "--uplinks", other.pk).startswith("1 waiting frame of 1 uplink judged: 1 acc")
        assert list(ready(waiting_uplinks())) == [(uplink.pk, 4)]
        assert self.run("verify_again", "--all-waiting").startswith("4 waiting frames of 1 uplink judged: 4 accepted")
        assert self.run("verify_again", "--all-waiting").startswith("0 waiting frames of 0 uplinks")
        with pytest.raises(CommandError, match="is not 16 hex digits"):
            self.run("verify_again", "--meters", "17")
