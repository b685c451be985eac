"""Integrity failures: evidence up to the cap of a storm, tallies beyond it."""

from datetime import UTC, datetime, timedelta

import pytest
from pytest_django import Settings

from concentrators.failures import record
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.ingest.decisions import Failure
from concentrators.models import Concentrator, FailureTally, IntegrityFailure, RefusedFrame
from tests.concentrators.fleet import NOW, commission, evidence, judged, tallies, verified

pytestmark = pytest.mark.django_db


def garbage(*numbers: int) -> list[bytes]:
    return [b"garbage %d" % number for number in numbers]


def test_rows_are_capped_and_the_tally_counts_on(
    concentrator: Concentrator, other_concentrator: Concentrator, settings: Settings
) -> None:
    settings.FAILURE_ROWS_PER_HOUR = 5
    first, second, third = (verified(concentrator, garbage(*range(n, n + 4))) for n in (0, 10, 20))
    assert [len(evidence(uplink)) for uplink in (first, second, third)] == [4, 1, 0]
    assert [row.frame_index for row in evidence(second)] == [0]
    assert [uplink.rejected for uplink in (first, second, third)] == [4, 4, 4]
    assert tallies(concentrator) == {"malformed": 12}

    # each concentrator, kind and hour has a cap of its own
    assert len(evidence(verified(other_concentrator, garbage(30, 31)))) == 2
    device = commission(1, concentrator)[0]
    assert len(evidence(verified(concentrator, [device.seal(b"") for _ in range(6)]))) == 5
    assert len(evidence(verified(concentrator, garbage(40, 41), NOW + timedelta(hours=1)))) == 2


def test_a_tally_is_of_an_hour_in_utc(concentrator: Concentrator) -> None:
    judged(concentrator, garbage(1, 2), NOW + timedelta(minutes=59, seconds=59))
    judged(concentrator, garbage(3), NOW + timedelta(hours=1))
    rows = FailureTally.objects.filter(concentrator=concentrator).order_by("hour")
    assert [(row.hour, row.failures) for row in rows] == [(NOW, 2), (NOW + timedelta(hours=1), 1)]
    assert all(row.hour.astimezone(UTC).minute == 0 for row in rows)


@pytest.mark.parametrize(
    ("kind", "severity"),
    [
        (FailureKind.COUNTER_REUSED, Severity.CRITICAL),
        (FailureKind.TAG_INVALID, Severity.CRITICAL),
        (FailureKind.PARKED, Severity.CRITICAL),
        (FailureKind.READING_CONFLICT, Severity.WARNING),
        (FailureKind.UNKNOWN_EPOCH, Severity.INFO),
    ],
)
def test_the_severity_is_kept_with_the_row(concentrator: Concentrator, kind: FailureKind, severity: Severity) -> None:
    uplink = verified(concentrator, garbage(1))
    record.record([Failure(7, b"octets", kind, "why")], uplink.pk, concentrator.pk, NOW)
    row = IntegrityFailure.objects.get(uplink=uplink, frame_index=7)
    assert (row.kind, row.severity) == (kind, severity)


def test_a_long_detail_is_cut_and_odd_characters_stay(concentrator: Concentrator) -> None:
    uplink = verified(concentrator, garbage(1))
    detail = "caf\u00e9 \U0001f50b " + "x" * 1000
    record.record([Failure(7, b"", FailureKind.MALFORMED, detail)], uplink.pk, concentrator.pk, NOW)
    assert IntegrityFailure.objects.get(frame_index=7).detail == detail[:250]


def test_why_a_frame_was_refused_before_is_told_by_its_octets(concentrator: Concentrator) -> None:
    uplink = verified(concentrator, garbage(1))
    kid = bytes(range(10))
    failures = [
        Failure(1, b"one", FailureKind.READING_CONFLICT, "", kid, 5),
        Failure(2, b"one", FailureKind.COUNTER_REUSED, "", kid, 5),  # later: the first reason stays
        Failure(3, b"two", FailureKind.IDENTITY_MISMATCH, "", kid, 5),
        Failure(4, b"one", FailureKind.TOO_OLD, "", kid, 6),
    ]
    record.record(failures, uplink.pk, concentrator.pk, NOW)
    one, two, three = (kid, 5, b"one"), (kid, 5, b"two"), (kid, 5, b"three")
    assert record.refused_before({one, two, three, (kid, 7, b"one")}) == {
        one: FailureKind.READING_CONFLICT,
        two: FailureKind.IDENTITY_MISMATCH,
    }
    assert record.refused_before(set()) == {}


def test_beyond_the_cap_a_digest_tells_why_a_frame_was_refused_before(
    concentrator: Concentrator, settings: Settings
) -> None:
    settings.FAILURE_ROWS_PER_HOUR = 1
    (device,) = commission(1, concentrator)
    old = [device.frame(-100_000 - n) for n in range(3)]
    assert judged(concentrator, old) == {"too_old": 3}
    assert IntegrityFailure.objects.count() == 1
    assert RefusedFrame.objects.count() == 2
    assert judged(concentrator, old) == {"too_old": 3}
    other = device.frame(0, counter=2)
    assert judged(concentrator, [other]) == {"counter_reused": 1}
    assert RefusedFrame.objects.count() == 2


def test_failures_carry_the_time_of_their_uplink(concentrator: Concentrator) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    assert evidence(verified(concentrator, garbage(1), at))[0].received_at == at
