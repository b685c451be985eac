"""Uplinks that fail to verify: tried again, then split, and the frame at fault parked with its evidence."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError, ProgrammingError
from django.utils import timezone
from psycopg.errors import InsufficientPrivilege
from pytest_django import Settings

from concentrators.failures.kinds import Severity
from concentrators.ingest import store, uplink_state, verification
from concentrators.ingest.transaction_retry import TransientError
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from concentrators.totals import totals
from keyvault.models import DeviceKey
from meters.contents.plain import PlainReader
from tests.concentrators.fleet import NOW, WINDOW, commission, evidence, outcome, post, readings_of, usual

pytestmark = pytest.mark.django_db

SECRET = "what the failing frame said"


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A payload that makes processing fail in a way nobody foresaw."""
    payload = usual(47, 4711)
    read = PlainReader.read

    def fail_on_poison(reader: PlainReader, given: bytes, *args: object) -> object:
        if given == payload:
            raise RuntimeError(SECRET)
        return read(reader, given, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PlainReader, "read", fail_on_poison)
    return payload


def attempt(uplink: Uplink) -> Uplink:
    assert verification.verify(uplink.pk) is None
    uplink.refresh_from_db()
    return uplink


def test_exactly_the_frame_at_fault_is_parked(concentrator: Concentrator, poison: bytes, settings: Settings) -> None:
    devices = commission(7, concentrator)
    frames = [device.frame(0) for device in devices] + [devices[0].frame(0), b"garbage"]
    frames.insert(4, devices[4].seal(poison))
    uplink = post(concentrator, [*frames, frames[0]])

    for attempts in range(1, settings.UPLINK_SPLIT_AFTER + 1):
        before = timezone.now()
        attempt(uplink)
        assert (uplink.attempts, uplink.verified_at, uplink.last_error) == (attempts, None, "RuntimeError")
        delay = timedelta(seconds=20 * 2 ** (attempts - 1))
        assert delay <= uplink.due_at - before <= delay + timedelta(seconds=5)
        assert not IntegrityFailure.objects.exists()
        assert readings_of(devices[0]) == {}
        assert uplink_state.claim_overdue(uplink.due_at) == [uplink.pk]

    verdicts = verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert verdicts is not None
    assert outcome(uplink) == {"accepted": 8, "duplicate": 1, "malformed": 1, "parked": 1}
    assert [readings_of(device) for device in devices] == [{0: 100}] * 7
    assert totals.compare(*WINDOW) == []
    parked = evidence(uplink)[0]
    assert (parked.kind, parked.frame_index, bytes(parked.frame)) == ("parked", 4, frames[4])
    assert (parked.severity, parked.concentrator, parked.received_at) == (Severity.CRITICAL, concentrator, NOW)
    assert (parked.meter, parked.invocation_counter) == (devices[4].meter, 1)
    assert bytes(parked.kid or b"") == devices[4].kid
    assert SECRET not in parked.detail
    assert SECRET not in uplink.last_error
    assert (uplink.waiting, uplink.waiting_frames) == (1, {"parked": [4]})  # for the fault to be mended


def test_a_parked_frame_leaves_its_counter(
    concentrator: Concentrator, poison: bytes, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.UPLINK_SPLIT_AFTER = 0
    device = commission(1, concentrator)[0]
    frame = device.seal(poison)
    uplink = post(concentrator, [frame])
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"parked": 1}
    monkeypatch.undo()  # mended
    again = post(concentrator, [frame, b""])
    verification.verify(again.pk)
    again.refresh_from_db()
    assert outcome(again) == {"accepted": 1, "malformed": 1}


def test_a_key_row_that_does_not_open_parks_only_its_device(concentrator: Concentrator) -> None:
    devices = commission(5, concentrator)
    victim, donor = devices[1], devices[3]
    DeviceKey.objects.filter(pk=victim.row().pk).update(wrapped=donor.row().wrapped)
    uplink = post(concentrator, [device.frame(n) for n in range(2) for device in devices])

    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"accepted": 8, "parked": 2}
    assert [(row.meter, row.invocation_counter) for row in evidence(uplink)] == [(victim.meter, 0), (victim.meter, 1)]
    assert (victim.counter().highest, victim.counter().heard_at) == (-1, None)
    assert totals.compare(*WINDOW) == []


def test_a_retired_key_is_not_opened_at_all(concentrator: Concentrator) -> None:
    device = commission(1, concentrator)[0]
    DeviceKey.objects.filter(pk=device.row().pk).update(state="retired", wrapped=b"long gone")
    uplink = post(concentrator, [device.frame(0)])
    verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert outcome(uplink) == {"key_retired": 1}


@pytest.mark.parametrize("attempts", [0, 3], ids=["whole", "split"])
def test_without_the_master_key_nothing_fails_and_nothing_is_lost(
    concentrator: Concentrator, settings: Settings, tmp_path: Path, attempts: int
) -> None:
    device = commission(1, concentrator)[0]
    uplink = post(concentrator, [device.frame(0)])
    Uplink.objects.filter(pk=uplink.pk).update(attempts=attempts)
    kept = Path(settings.MASTER_KEY_FILE)
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    for _ in range(5):
        with pytest.raises(TransientError, match="master_key init"):
            verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert (uplink.verified_at, uplink.attempts, uplink.last_error) == (None, attempts, "")

    shutil.copy2(kept, settings.MASTER_KEY_FILE)
    assert verification.verify(uplink.pk) is not None
    assert readings_of(device) == {0: 100}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OperationalError("the connection is closed"), None),
        (ProgrammingError("the connection is closed to this role"), InsufficientPrivilege()),
    ],
    ids=["gone", "forbidden"],
)
@pytest.mark.parametrize("attempts", [0, 3], ids=["whole", "split"])
def test_a_database_that_does_not_answer_is_no_fault_of_the_uplink(
    concentrator: Concentrator,
    monkeypatch: pytest.MonkeyPatch,
    attempts: int,
    error: Exception,
    cause: Exception | None,
) -> None:
    def away(*_: object) -> None:
        raise error from cause

    uplink = post(concentrator, [b"garbage"])
    Uplink.objects.filter(pk=uplink.pk).update(attempts=attempts)
    monkeypatch.setattr(store, "save_counters", away)
    with pytest.raises(TransientError, match="connection is closed"):
        verification.verify(uplink.pk)
    uplink.refresh_from_db()
    assert (uplink.verified_at, uplink.attempts) == (None, attempts)
