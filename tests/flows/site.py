"""What flows share: a concentrator with meters at a live stack, and the truth that must stand in the end."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from django.db import connection
from django.db.models import F

from concentrators.fleet import tokens
from concentrators.models import Concentrator, FailureTally, IntegrityFailure, IntervalTotal, Uplink
from concentrators.totals import totals
from keyvault.cose.structures import encode_sequence
from meters.models import Reading
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, START_S, WINDOW, Device, commission, register_id
from tests.factories import ConcentratorFactory
from tests.flows.stack import START_TIMEOUT_S, TRUSTED, Stack, wait_for

CBOR_SEQUENCE = "application/cbor-seq"

Readings = dict[tuple[int, int], int]  # energy of an interval by (meter id, number of the interval)


@dataclass
class Site:
    """A concentrator with its token and its meters, in the database of a live stack."""

    stack: Stack
    concentrator: Concentrator
    token: str
    devices: list[Device]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Content-Type": CBOR_SEQUENCE}

    def post(self, frames: Sequence[bytes], timeout_s: float = 30) -> httpx.Response:
        return self.post_body(encode_sequence(list(frames)), timeout_s=timeout_s)

    def post_body(self, body: bytes, headers: Mapping[str, str] | None = None, timeout_s: float = 30) -> httpx.Response:
        url = f"{self.stack.base_url}/api/v1/uplinks"
        return httpx.post(
            url, content=body, headers={**self.headers, **(headers or {})}, timeout=timeout_s, verify=TRUSTED
        )

    def posted(self, frames: Sequence[bytes]) -> int:
        """Posts frames; gives the uplink's id from the receipt."""
        answer = self.post(frames)
        assert answer.status_code == 202, answer.text
        assert answer.json()["frames"] == len(frames)
        return int(answer.json()["uplink"])

    def status(self, uplink_id: int) -> dict[str, Any]:
        answer = httpx.get(
            f"{self.stack.base_url}/api/v1/uplinks/{uplink_id}", headers=self.headers, timeout=30, verify=TRUSTED
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def found(stack: Stack, meters: int) -> Site:
    """A new concentrator with a token and so many new meters."""
    concentrator: Concentrator = ConcentratorFactory.create()
    return Site(stack, concentrator, tokens.issue(concentrator), commission(meters, concentrator))


def frames_of(devices: Iterable[Device], intervals: Iterable[int]) -> list[bytes]:
    """One frame of every meter for every interval; the counter is the interval's number, so any order will do."""
    numbers = list(intervals)
    return [device.frame(number, energy(device, number), counter=number) for device in devices for number in numbers]


def energy(device: Device, interval: int) -> int:
    """What a meter measured in an interval; never negative, as a register of energy takes no such value."""
    return 100 + device.meter.pk % 50 + interval % 10_000


def readings_expected(devices: Iterable[Device], intervals: Iterable[int]) -> Readings:
    numbers = list(intervals)
    return {(device.meter.pk, number): energy(device, number) for device in devices for number in numbers}


def all_verified(uplink_ids: Iterable[int]) -> bool:
    return not Uplink.objects.filter(pk__in=list(uplink_ids), verified_at=None).exists()


def wait_verified(uplink_ids: Iterable[int], timeout_s: float = START_TIMEOUT_S) -> None:
    ids = list(uplink_ids)
    wait_for("every uplink is verified", lambda: all_verified(ids), timeout_s)


def sweep_until_verified(stack: Stack, uplink_ids: Iterable[int], timeout_s: float = START_TIMEOUT_S) -> None:
    """Sends the sweep's task, as beat does, until everything is verified."""
    ids = list(uplink_ids)
    deadline = time.monotonic() + timeout_s
    while not all_verified(ids):
        if time.monotonic() > deadline:
            left = list(Uplink.objects.filter(verified_at=None).values("pk", "attempts", "due_at", "last_error"))
            pytest.fail(f"the sweep brought back all but {left}\n{stack.logs()[-3000:]}")
        stack.enqueue("sweep_uplinks")
        time.sleep(0.5)


def assert_one_verdict_each(uplink_ids: Iterable[int]) -> Counter[str]:
    """Every frame of the uplinks has one verdict, every failure its evidence, once; gives how many of each kind."""
    ids = sorted(set(uplink_ids))
    verdicts: Counter[str] = Counter()
    for uplink in Uplink.objects.filter(pk__in=ids):
        assert uplink.verified_at is not None
        assert uplink.accepted + uplink.duplicate + uplink.rejected == uplink.frames
        assert sum(uplink.failures.values()) == uplink.rejected
        evidence = Counter(IntegrityFailure.objects.filter(uplink=uplink).values_list("kind", flat=True))
        assert evidence == Counter(uplink.failures)
        verdicts += Counter(accepted=uplink.accepted, duplicate=uplink.duplicate, **uplink.failures)
    return verdicts


def tallied(concentrator: Concentrator) -> Counter[str]:
    counted: Counter[str] = Counter()
    for row in FailureTally.objects.filter(concentrator=concentrator):
        counted[row.kind] += row.failures
    return counted


def assert_readings(devices: Sequence[Device], expected: Readings) -> None:
    """The readings of the meters are these, each once, and the totals are what they add up to."""
    rows = Reading.objects.filter(meter__in=[d.meter.pk for d in devices], register_id=register_id(INTERVAL))
    stored = list(rows.values_list("meter_id", "captured_at", "value"))
    standing = {(meter, (int(at.timestamp()) - START_S) // HALF_HOUR_S): value for meter, at, value in stored}
    assert len(stored) == len(standing)
    assert standing == expected
    assert totals.compare(*WINDOW) == []


def total_of(concentrator: Concentrator) -> int:
    """The energy of all intervals of a concentrator."""
    rows = IntervalTotal.objects.filter(concentrator=concentrator, register_id=register_id(INTERVAL))
    return int(sum(rows.values_list("value_sum", flat=True)))


@contextmanager
def receptions_held(stack: Stack) -> Iterator[None]:
    """Holds the table of uplinks against whoever stores one: a post waits after all that is asked before."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as other:
        other.execute("LOCK TABLE concentrators_uplink IN SHARE MODE")
        yield
        other.rollback()


@contextmanager
def counter_held(stack: Stack, device: Device) -> Iterator[None]:
    """Holds the lock of a counter's row: a worker that is to store it waits inside its transaction."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as other:
        key_id = device.row().pk
        other.execute("SELECT 1 FROM keyvault_invocationcounter WHERE key_id = %s FOR UPDATE", [key_id])
        yield
        other.rollback()


def waiting_backends() -> list[int]:
    """PostgreSQL's processes in this database that wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return [row[0] for row in cursor.fetchall()]


def make_due(uplink_id: int) -> None:
    """The time until the next attempt has passed."""
    Uplink.objects.filter(pk=uplink_id).update(due_at=F("received_at"))
