"""Lists of failures: every filter finds what it says, in pages, newest first; every page is one statement."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from concentrators.failures import queries
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureSelection, failure_groups, failures, open_by_severity
from concentrators.models import Acknowledgement, Concentrator, IntegrityFailure
from meters.models import Meter
from meters.readings.queries import batches
from tests.concentrators.fleet import NOW
from tests.concentrators.statements import Statements
from tests.factories import IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db

KINDS = [FailureKind.MALFORMED, FailureKind.TAG_INVALID, FailureKind.UNKNOWN_EPOCH, FailureKind.PARKED]


@pytest.fixture
def meters() -> list[Meter]:
    return MeterFactory.create_batch(2)


@pytest.fixture
def rows(concentrator: Concentrator, other_concentrator: Concentrator, meters: list[Meter]) -> list[IntegrityFailure]:
    """One of each combination, some at the same instant; a third of them acknowledged."""
    note = Acknowledgement.objects.create(by="who", at=NOW, note="looked at")
    made = []
    combinations = itertools.product(KINDS, [concentrator, other_concentrator], [*meters, None])
    for number, (kind, brought_by, meter) in enumerate(combinations):
        made.append(
            IntegrityFailureFactory.create(
                kind=kind,
                meter=meter,
                concentrator=brought_by,
                received_at=NOW - timedelta(minutes=number * 7 % 10),
                kid=None if meter is None else bytes(meter.system_title) + b"\x00\x01",
                acknowledgement=note if number % 3 == 0 else None,
            )
        )
    return list(IntegrityFailure.objects.order_by("-received_at", "-id").filter(pk__in=[row.pk for row in made]))


def ids(selection: FailureSelection) -> list[int]:
    return [row.id for row in failures(selection, 100)[0]]


@pytest.mark.parametrize("is_open", [None, True, False])
@pytest.mark.parametrize("severity", [None, Severity.CRITICAL])
@pytest.mark.parametrize("kinds", [None, [FailureKind.MALFORMED], [FailureKind.TAG_INVALID, FailureKind.PARKED]])
@pytest.mark.parametrize("place", ["anywhere", "meter", "concentrator", "both", "uplink", "title"])
@pytest.mark.parametrize("in_period", [False, True])
def test_a_filter_finds_what_it_says(
    rows: list[IntegrityFailure],
    meters: list[Meter],
    concentrator: Concentrator,
    place: str,
    kinds: Any,
    severity: Any,
    is_open: bool | None,
    in_period: bool,
) -> None:
    meter, uplink = meters[0], rows[0].uplink_id
    start, end = NOW - timedelta(minutes=6), NOW - timedelta(minutes=1)
    selection = FailureSelection(
        kinds=kinds,
        severity=severity,
        is_open=is_open,
        meter_id=meter.pk if place in ("meter", "both") else None,
        concentrator_id=concentrator.pk if place in ("concentrator", "both") else None,
        uplink_id=uplink if place == "uplink" else None,
        system_title=bytes(meter.system_title) if place == "title" else None,
        start=start if in_period else None,
        end=end if in_period else None,
    )
    expected = [
        row.pk
        for row in rows
        if (kinds is None or row.kind in kinds)
        and (severity is None or row.severity == severity)
        and (is_open is None or (row.acknowledgement_id is None) == is_open)
        and (place not in ("meter", "both", "title") or row.meter_id == meter.pk)
        and (place not in ("concentrator", "both") or row.concentrator_id == concentrator.pk)
        and (place != "uplink" or row.uplink_id == uplink)
        and (not in_period or start <= row.received_at < end)
    ]
    assert ids(selection) == expected


@pytest.mark.parametrize("kinds", [None, KINDS[:2]])
def test_pages_go_on_where_the_last_one_ended(rows: list[IntegrityFailure], kinds: Any) -> None:
    selection = FailureSelection(kinds=kinds)
    paged = [row.id for page in batches(failures, selection, 5) for row in page]
    assert paged == ids(selection)
    groups = [row.id for page in batches(failure_groups, selection, 3) for row in page]
    assert groups == [row.id for row in failure_groups(selection, 100)[0]]
    assert len(groups) == len(set(groups)) == (16 if kinds is None else 8)


def test_a_page_is_one_statement(rows: list[IntegrityFailure], statements: Statements) -> None:
    failures(FailureSelection(severity=Severity.CRITICAL), 5)
    failure_groups(FailureSelection(), 5)
    assert len(statements) == 2


def test_groups_are_found_by_whom_and_where(
    rows: list[IntegrityFailure], meters: list[Meter], concentrator: Concentrator
) -> None:
    def found(**asked: Any) -> list[queries.FailureGroupRow]:
        return failure_groups(FailureSelection(**asked), 100)[0]

    assert {row.meter for row in found(meter_id=meters[1].pk)} == {meters[1].serial_number}
    by_concentrator = found(concentrator_id=concentrator.pk)
    assert len(by_concentrator) == 12
    assert {row.concentrator for row in by_concentrator} == {None, concentrator.name}
    assert {row.kind for row in found(severity=Severity.CRITICAL)} == {"tag_invalid", "parked"}
    assert found(start=NOW + timedelta(seconds=1)) == []
    assert all(row.open == 0 for row in found(is_open=False))
    assert sum(row.failures for row in found()) == len(rows)


def test_what_is_open_is_counted_by_severity(rows: list[IntegrityFailure]) -> None:
    counted = open_by_severity()
    assert list(counted) == [Severity.CRITICAL, Severity.WARNING, Severity.INFO]
    for severity, count in counted.items():
        assert count == sum(row.severity == severity and row.acknowledgement_id is None for row in rows)
