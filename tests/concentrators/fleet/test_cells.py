"""Concentrators that move to another cell: who has them, who has their meters, and what a restore makes of it."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.core import bearer
from ami_headend.core.csv_tables import FileError
from concentrators.fleet import cells, registry, tokens
from concentrators.fleet.assignments import AssignmentError, assign
from concentrators.fleet.cells import CellError, Moved
from concentrators.fleet.first_keys import KeyPolicy
from concentrators.fleet.meter_import import import_file
from concentrators.ingest import reverification_queue, verification
from concentrators.journal_replay import AccessReplayer
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.journal import reading
from keyvault.models import AuditRecord
from meters.models import Installation, Meter, MeterStatus, Place
from meters.registry import lifecycle
from meters.registry.lookup import RegistryError
from tests.concentrators.fleet import Device, commission, judged, outcome, post, verified
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "test")
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _named(settings: Settings) -> None:
    settings.CELL = "a"


@pytest.fixture
def moving() -> list[Concentrator]:
    return [ConcentratorFactory.create(name=f"moves {number}") for number in range(2)]


@pytest.fixture
def staying() -> Concentrator:
    found: Concentrator = ConcentratorFactory.create(name="stays")
    return found


def status(*devices: Device) -> list[str]:
    rows = dict(Meter.objects.values_list("pk", "status").order_by("pk"))
    return [rows[device.meter.pk] for device in devices]


def state(concentrator: Concentrator) -> tuple[bool, str]:
    concentrator.refresh_from_db()
    return concentrator.is_active, concentrator.moved_to


def test_release_shuts_out_and_gives_meters_away(moving: list[Concentrator], staying: Concentrator) -> None:
    one, other = commission(1, moving[0])[0], commission(1, moving[1])[0]
    stays, suspended = commission(1, staying)[0], commission(1, moving[0])[0]
    lifecycle.suspend(suspended.meter)
    assert cells.would_release(moving, "b", NOW) == Moved(2, 2)
    assert cells.release(ANN, moving, "b", NOW) == Moved(2, 2)
    assert [state(concentrator) for concentrator in (*moving, staying)] == [(False, "b"), (False, "b"), (True, "")]
    assert status(one, other, stays, suspended) == ["moved", "moved", "commissioned", "suspended"]
    assert judged(staying, [one.frame(0)]) == {"device_suspended": 1}
    assert cells.release(ANN, moving, "b", NOW) == Moved(0, 0)  # again: nothing is left to do
    record = AuditRecord.objects.get(act="cell.release")
    assert record.subject == {"cell": "a", "to": "b", "concentrators": 2, "meters": 2}


def test_an_interrupted_release_goes_on(moving: list[Concentrator], monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [commission(1, one)[0] for one in moving]

    class KilledError(BaseException):
        """The process is no more."""

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "move_out", killed)
        with pytest.raises(KilledError):
            cells.release(ANN, moving, "b", NOW)
    assert status(*devices) == ["commissioned"] * 2
    cells.release(ANN, moving, "b", NOW)
    assert status(*devices) == ["moved"] * 2


def test_what_moved_is_changed_there_alone(moving: list[Concentrator]) -> None:
    meter = commission(1, moving[0])[0].meter
    cells.release(ANN, moving, "b", NOW)
    for act in (lifecycle.suspend, lifecycle.resume):
        with pytest.raises(RegistryError, match="is moved"):
            act(meter)
    with pytest.raises(RegistryError, match="was moved to another cell: change it there"):
        lifecycle.retire(meter, NOW + timedelta(days=1))
    moving[0].refresh_from_db()
    moving[0].is_active = True
    with pytest.raises(ValidationError, match="was moved to another cell"):
        moving[0].full_clean()
    with transaction.atomic(), pytest.raises(IntegrityError):
        moving[0].save()


def test_pages_say_where_it_is_and_do_not_let_it_in(moving: list[Concentrator], admin_client: Client) -> None:
    cells.release(ANN, moving, "b", NOW)
    page = admin_client.get(reverse("admin:concentrator", args=[moving[0].pk])).content.decode()
    assert "Moved to cell b: its requests are refused here" in page
    form = {"name": moving[0].name, "is_active": "on"}
    answer = admin_client.post(reverse("admin:concentrators_concentrator_change", args=[moving[0].pk]), form)
    assert "This concentrator was moved to cell b: only that one may let it in." in answer.content.decode()
    assert state(moving[0]) == (False, "b")


def test_keep_is_the_mirror_image(moving: list[Concentrator], staying: Concentrator, settings: Settings) -> None:
    kept, stays, suspended = commission(1, moving[0])[0], commission(1, staying)[0], commission(1, moving[1])[0]
    lifecycle.suspend(suspended.meter)
    alone, retired = MeterFactory.create(), MeterFactory.create(status=MeterStatus.RETIRED)
    cells.release(ANN, moving, "b", NOW)
    with pytest.raises(CellError, match="--of takes the name of another cell than this, which is a"):
        cells.keep(ANN, "a", NOW)
    settings.CELL = "b"
    assert cells.would_keep("a", NOW) == Moved(2, 1)
    assert cells.keep(ANN, "a", NOW) == Moved(2, 1)
    assert [state(concentrator) for concentrator in (*moving, staying)] == [(True, ""), (True, ""), (False, "a")]
    assert status(kept, stays, suspended) == ["commissioned", "moved", "suspended"]
    for meter, expected in ((alone, MeterStatus.MOVED), (retired, MeterStatus.RETIRED)):
        meter.refresh_from_db()
        assert meter.status == expected
    kept.meter.refresh_from_db()
    assert kept.meter.retired_at is None
    with pytest.raises(CellError, match="no concentrator was released to cell b"):
        cells.keep(ANN, "a", NOW)


def test_a_frame_that_came_too_late_for_a_is_accepted_by_b(moving: list[Concentrator], settings: Settings) -> None:
    """It waits in A, as it would for a suspended meter, and so it waits in the backup."""
    (device,) = commission(1, moving[0])
    cells.release(ANN, moving, "b", NOW)
    uplink = verified(moving[0], [device.frame(0)])
    assert (outcome(uplink), uplink.waiting) == ({"device_suspended": 1}, 1)
    settings.CELL = "b"
    cells.keep(ANN, "a", NOW)
    while reverification_queue.work():
        pass
    uplink.refresh_from_db()
    assert (outcome(uplink), uplink.waiting) == ({"accepted": 1}, 0)


def test_nothing_comes_to_what_moved_away(moving: list[Concentrator], staying: Concentrator, tmp_path: Path) -> None:
    moved, stays, alone = commission(1, moving[0])[0].meter, commission(1, staying)[0].meter, MeterFactory.create()
    cells.release(ANN, moving, "b", NOW)
    for meter, concentrator, why in (
        (stays, moving[1], "concentrator moves 1 was moved to cell b"),
        (moved, staying, "concentrator moves 0 was moved to cell b"),
    ):
        with pytest.raises(AssignmentError, match=why):
            assign([(meter.pk, concentrator.pk)], NOW + timedelta(minutes=1))
    Meter.objects.filter(pk=alone.pk).update(status=MeterStatus.MOVED, retired_at=NOW)
    with pytest.raises(AssignmentError, match="was moved to another cell: assign it there"):
        assign([(alone.pk, staying.pk)], NOW)
    place = Place.objects.create(name="mill lane 4")
    Installation.objects.create(meter=moved, place=place, installed_at=NOW - timedelta(days=1))
    with pytest.raises(RegistryError, match="was moved to another cell: change it there"):
        lifecycle.exchange(place, moved, MeterFactory.create(), NOW)
    table = tmp_path / "new.csv"
    table.write_text("system_title,serial_number,concentrator\n0024befffe00aaaa,S9,moves 0\n")
    report = import_file(table, KeyPolicy(make=False), ANN, NOW)
    assert [line.reason for line in report.bad] == ["concentrator moves 0 was moved to cell b: import the meter there"]
    assert not Meter.objects.filter(serial_number="S9").exists()


def test_whose_a_meter_is_must_not_change_during_a_split(moving: list[Concentrator], staying: Concentrator) -> None:
    comes, goes = commission(1, staying)[0].meter, commission(1, moving[0])[0].meter
    for meter, concentrator in ((comes, moving[0]), (goes, staying)):
        with transaction.atomic():
            assign([(meter.pk, concentrator.pk)], NOW + timedelta(days=1))
            with pytest.raises(CellError, match=f"meter {meter} changes its concentrator after this instant"):
                cells.would_release(moving, "b", NOW)
            transaction.set_rollback(True)
    assert cells.would_release(moving, "b", NOW) == Moved(2, 1)


def test_nothing_is_released_to_a_cell_that_is_mistyped(moving: list[Concentrator]) -> None:
    cells.release(ANN, moving, "b", NOW)
    for act in (cells.take_back, cells.forget):
        with pytest.raises(CellError, match="no concentrator is released to cell c"):
            act(ANN, "c", NOW)
    assert not AuditRecord.objects.filter(act="cell.take_back").exists()


def test_take_back(moving: list[Concentrator]) -> None:
    (device,) = commission(1, moving[0])
    cells.release(ANN, moving, "b", NOW)
    assert cells.take_back(ANN, "b", NOW) == Moved(2, 1)
    assert [*map(state, moving)] == [(True, "")] * 2
    assert status(device) == ["commissioned"]


def test_forget_revokes_and_moves_what_is_suspended(moving: list[Concentrator], staying: Concentrator) -> None:
    (device,) = commission(1, moving[0])
    lifecycle.suspend(device.meter)
    moves, stays = tokens.issue(moving[0]), tokens.issue(staying)
    cells.release(ANN, moving, "b", NOW)
    assert cells.forget(ANN, "b", NOW) == 1
    revoked = ConcentratorToken.objects.exclude(revoked_at=None)
    assert [bytes(row.digest) for row in revoked] == [bearer.digest(moves)]
    assert tokens.find(stays, timezone.now()) is not None
    assert status(device) == ["moved"]


def test_names_that_cannot_be(moving: list[Concentrator], staying: Concentrator, settings: Settings) -> None:
    for to in ("a", "B", ""):
        with pytest.raises(CellError, match="takes the name of another cell"):
            cells.release(ANN, moving, to, NOW)
    cells.release(ANN, moving[:1], "b", NOW)
    with pytest.raises(CellError, match="moves 0 was released to cell b before: name all"):
        cells.release(ANN, [staying], "b", NOW)
    with pytest.raises(CellError, match="moves 0 was moved to cell b already"):
        cells.release(ANN, moving, "c", NOW)
    registry.save_as(ANN, Concentrator(name="shut", is_active=False))
    with pytest.raises(CellError, match="shut is not active"):
        cells.release(ANN, [Concentrator.objects.get(name="shut")], "c", NOW)
    settings.CELL = ""
    for act in (cells.keep, cells.take_back, cells.forget):
        with pytest.raises(CellError, match="set CELL"):
            act(ANN, "b", NOW)


def test_it_is_settled_when_all_is_verified(moving: list[Concentrator]) -> None:
    (device,) = commission(1, moving[0])
    uplink = post(moving[0], [device.frame(0)])
    cells.release(ANN, moving, "b", NOW)
    with pytest.raises(CellError, match="after 0 s 1 uplink of these concentrators is not verified"):
        cells.wait_until_settled("b", 0)
    verification.verify(uplink.pk)
    cells.wait_until_settled("b", 5)


def test_lines_of_the_entrance_are_digests_of_valid_tokens(moving: list[Concentrator]) -> None:
    valid, gone = tokens.issue(moving[0]), tokens.issue(moving[1], "gone")
    tokens.revoke(ConcentratorToken.objects.get(label="gone"))
    tokens.issue(moving[1], expires_at=NOW)
    assert cells.map_lines(moving, "hold", NOW) == [f"{bearer.digest(valid).hex()} hold"]
    assert gone not in "".join(cells.map_lines(moving, "hold", NOW))
    for backend in ("", "cell b", "cell_b\nother"):
        with pytest.raises(CellError, match="takes the name of a backend"):
            cells.map_lines(moving, backend, NOW)


def test_a_file_names_concentrators(moving: list[Concentrator], tmp_path: Path) -> None:
    file = tmp_path / "moving.txt"
    file.write_text("# those that move\nmoves 1\n\n  moves 0 \nmoves 2\n")
    found, bad = cells.chosen(file)
    assert found == moving
    assert [(line.line, line.reason) for line in bad] == [(5, "there is no concentrator moves 2")]
    file.write_text("# none\n")
    with pytest.raises(FileError, match="names no concentrator"):
        cells.chosen(file)
    with pytest.raises(FileError, match="cannot be read"):
        cells.chosen(tmp_path / "missing.txt")


def test_a_restore_of_an_older_backup_gives_them_away_again(
    moving: list[Concentrator], staying: Concentrator, settings: Settings, tmp_path: Path
) -> None:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    moves, stays = commission(1, moving[0])[0], commission(1, staying)[0]
    cells.release(ANN, moving, "b", NOW)
    Concentrator.objects.update(is_active=True, moved_to="")  # the backup does not know of it
    Meter.objects.update(status=MeterStatus.COMMISSIONED, retired_at=None)
    replayer = AccessReplayer()
    for record in reading.read([settings.KEY_JOURNAL_DIR], master_key.current()):
        if record.kind in replayer.kinds:
            replayer.kinds[record.kind](record)
    notes = replayer.conclude(NOW)
    assert [*map(state, moving)] == [(False, "b")] * 2
    assert status(moves, stays) == ["moved", "commissioned"]
    assert any("1 meter is of a concentrator that was moved to another cell" in note for note in notes)
