"""What concentrators say that they dropped: counted by meter and hour, capped, and nobody else's word."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from concentrators import retention
from concentrators.fleet import hop_failures, tokens
from concentrators.fleet.hop_failures import HopFailureEntry, HopFailureError, HopFault
from concentrators.models import Concentrator, HopFailure, IntegrityFailure
from tests.concentrators.fleet import NOW, Device, commission
from tests.concentrators.statements import Statements

pytestmark = pytest.mark.django_db


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    return commission(1, concentrator)[0]


def entry(device: Device, count: int = 1, hour: datetime = NOW, samples: tuple[bytes, ...] = ()) -> HopFailureEntry:
    return HopFailureEntry(device.title, hour, HopFault.TAG_INVALID, count, samples)


def kept() -> list[tuple[int, list[bytes]]]:
    rows = HopFailure.objects.order_by("hour", "meter_id", "reason")
    return [(row.frames, list(map(bytes, row.samples))) for row in rows]


def test_a_count_is_of_its_whole_hour_and_the_first_samples_stay(concentrator: Concentrator, device: Device) -> None:
    hop_failures.report(concentrator.pk, [entry(device, 5)], NOW)
    hop_failures.report(concentrator.pk, [entry(device, 9, samples=(b"a", b"b"))], NOW)
    hop_failures.report(concentrator.pk, [entry(device, 9), entry(device, 7, samples=(b"c",))], NOW)
    assert kept() == [(9, [b"a", b"b"])]
    hop_failures.report(concentrator.pk, [entry(device, 1, NOW - timedelta(hours=1))], NOW)
    assert kept() == [(1, []), (9, [b"a", b"b"])]
    assert not IntegrityFailure.objects.exists()  # a concentrator's word is no evidence


@pytest.mark.parametrize(
    ("hour", "said"),
    [
        (NOW + timedelta(minutes=30), "is not a full hour"),
        (NOW + timedelta(hours=1), "is in the future"),
        (NOW - timedelta(days=32), "is in the future, or more than 31 days ago"),
    ],
)
def test_of_another_hour_nothing_is_noted(
    concentrator: Concentrator, device: Device, hour: datetime, said: str
) -> None:
    with pytest.raises(HopFailureError, match=f"entry 1: .*{said}"):
        hop_failures.report(concentrator.pk, [entry(device), entry(device, hour=hour)], NOW)
    assert not kept()


def test_of_another_concentrators_meter_nothing_is_noted(
    concentrator: Concentrator, other_concentrator: Concentrator, device: Device
) -> None:
    with pytest.raises(HopFailureError, match="entry 0: no meter"):
        hop_failures.report(other_concentrator.pk, [entry(device)], NOW)
    assert not kept()


def test_an_hour_has_so_many_rows_and_those_that_stand_go_on(concentrator: Concentrator, settings: Settings) -> None:
    settings.FAILURE_ROWS_PER_HOUR = 2
    devices = commission(4, concentrator)
    hop_failures.report(concentrator.pk, [entry(device) for device in devices], NOW)
    hop_failures.report(concentrator.pk, [entry(device, 2) for device in devices], NOW)
    assert [count for count, _ in kept()] == [2, 2]


def test_the_number_of_queries_does_not_grow(concentrator: Concentrator, statements: Statements) -> None:
    devices = commission(6, concentrator)
    seen = []
    for some in (devices[:1], devices):
        before = len(statements)
        hop_failures.report(concentrator.pk, [entry(device) for device in some], NOW)
        seen.append(len(statements) - before)
    assert seen[0] == seen[1]


def test_they_go_with_the_failures(concentrator: Concentrator, device: Device, settings: Settings) -> None:
    hop_failures.report(concentrator.pk, [entry(device)], NOW)
    assert retention.delete_old(NOW)["hop failures"] == 0
    later = NOW + timedelta(days=settings.FAILURE_KEEP_DAYS, hours=1)
    assert retention.delete_old(later)["hop failures"] == 1


class TestDoor:
    def post(self, concentrator: Concentrator, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}
        return Client().post("/api/v1/hop-failures", body, "application/json", headers=headers)

    def one(self, device: Device, **other: Any) -> dict[str, Any]:
        hour = NOW.isoformat()
        said = {
            "system_title": device.title.hex(),
            "hour": hour,
            "reason": "untagged",
            "frames": 3,
            "samples": ["d083"],
        }
        return said | other

    def test_operators_see_what_was_said(self, concentrator: Concentrator, device: Device) -> None:
        answer = self.post(concentrator, {"failures": [self.one(device)]})
        assert (answer.status_code, answer.content) == (204, b"")
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        for query in ("", f"?meter={device.title.hex()}", f"?concentrator={concentrator.name}"):
            (row,) = client.get(f"/api/v1/failures/hop{query}").json()
            assert (row["meter"], row["frames"], row["reason"]) == (str(device.meter), 3, "untagged")
            assert row["samples"] == ["d083"]
        assert client.get("/api/v1/failures/hop?meter=0000000000000000").json() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"frames": 0},
            {"frames": 2**31},
            {"reason": "boredom"},
            {"system_title": "xyz"},
            {"hour": "noon"},
            {"samples": ["zz"]},
            {"samples": ["00" * 1100]},
            {"samples": ["00"] * 4},
            {"system_title": "0" * 16},
        ],
    )
    def test_what_is_wrong_is_a_problem(
        self, concentrator: Concentrator, device: Device, wrong: dict[str, Any]
    ) -> None:
        answer = self.post(concentrator, {"failures": [self.one(device, **wrong)]})
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
        assert not kept()

    def test_what_is_wrong_with_several_samples_is_said_once(self, concentrator: Concentrator, device: Device) -> None:
        answer = self.post(concentrator, {"failures": [self.one(device, samples=["zz", "00", "zz"])]}).json()
        assert answer["errors"] == [
            {"name": "failures.0.samples", "detail": "octets in hex digits (values 0, 2)"},
        ]

    @pytest.mark.parametrize("body", [{}, [], {"failures": []}, {"failures": {}}, {"failures": [1]}])
    def test_what_is_no_report_is_a_problem(self, concentrator: Concentrator, body: Any) -> None:
        assert self.post(concentrator, body).status_code == 400
