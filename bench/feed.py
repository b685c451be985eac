"""The feed: what lots cost while readings are stored, and how fast rows leave again.

Both run in one process over the uplinks of a site, and are measured in CPU: storing with lots and without them in turn
on the same frames, reading in each format.
"""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import median

from django.db import connection

from bench.parts import Bench, Sizes
from bench.site import Site
from concentrators.feed import lots, pages, sequencer
from concentrators.feed.rows import Resource
from concentrators.feed.writers import WRITERS
from concentrators.ingest import uplink_state, verification
from concentrators.models import Concentrator
from keyvault.cose.structures import split_sequence

INGEST_GOAL = 1.03  # of the CPU of storing without lots
PARQUET_GOAL = 200_000  # rows a second
UPLINK_FRAMES = 1_000
LOT_FRAMES = 5_000
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass
class FeedResults:
    """CPU in microseconds a frame, with lots and without; rows a second by format; octets of a row in a lot."""

    ingest: list[tuple[float, float]] = field(default_factory=list)
    rows_s: dict[str, list[float]] = field(default_factory=dict)
    octets: float = 0.0

    @property
    def ratio(self) -> float:
        """Return what storing with lots costs, of storing without."""
        return median(with_lots / without for with_lots, without in self.ingest)


def measure(bench: Bench, concentrators: int, meters_each: int, sizes: Sizes) -> None:
    """Measure storing in paired rounds, then reading what the last one stored."""
    with bench.site(concentrators, meters_each) as site:
        site.use()
        bench.results.feed = _measured(bench, site, sizes)


def _measured(bench: Bench, site: Site, sizes: Sizes) -> FeedResults:
    frames = bench.seal(site, sizes.frames)
    found = FeedResults()
    add = lots.add
    try:
        for number in range(sizes.rounds + 1):
            costs = {}
            for has_lots in random.Random(number).sample([True, False], 2):
                lots.add = add if has_lots else _tell_nobody
                costs[has_lots] = _stored(site, frames)
            if number:  # the first round warms up
                found.ingest.append((costs[True], costs[False]))
                bench.say(
                    f"round {number}, feed: {costs[True]:.2f} us of CPU a frame with lots, {costs[False]:.2f} without"
                )
        lots.add = add
        _stored(site, frames)
    finally:
        lots.add = add
    sequencer.number_settled(all_committed=True)
    rows, octets = _kept()
    found.octets = octets / rows
    for name in WRITERS:
        found.rows_s[name] = [_read(name, rows) for _ in range(sizes.rounds)]
        bench.say(f"feed: {median(found.rows_s[name]):,.0f} rows a second of CPU as {name}")
    return found


def _tell_nobody(*_: object, **__: object) -> None:
    """Take the place of ``lots.add``."""


def _stored(site: Site, frames: Sequence[Sequence[bytes]]) -> float:
    """Store uplinks and verify them; return the microseconds of CPU that verifying a frame took."""
    site.reset()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE concentrators_feedlot")
        cursor.execute("UPDATE concentrators_feedhead SET position = 0, readings = 0, events = 0, first_kept = 1")
    ids = list(Concentrator.objects.order_by("pk").values_list("pk", flat=True)[: len(site.tokens)])
    now = datetime.now(UTC)
    uplinks = []
    for number, body in enumerate(site.bodies(list(map(list, frames)), min(UPLINK_FRAMES, len(frames[0])))):
        count, digest = len(split_sequence(body.octets)), sha256(body.octets).digest()
        uplink_id = uplink_state.add(ids[number % len(ids)], body.octets, digest, count, now, now)
        assert uplink_id is not None
        uplinks.append((uplink_id, count))
    at_once = max(1, LOT_FRAMES // uplinks[0][1])
    began = _cpu_s()
    for start in range(0, len(uplinks), at_once):
        verification.verify_together([uplink_id for uplink_id, _ in uplinks[start : start + at_once]])
    spent_s = _cpu_s() - began
    total = sum(count for _, count in uplinks)
    site.check(total)
    return spent_s / total * 1e6


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of its server process in PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + (int(user) + int(system)) / _TICKS_S


def _kept() -> tuple[int, int]:
    """Return how many rows the lots have, and in how many octets."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(readings)::bigint, sum(length(reading_rows))::bigint FROM concentrators_feedlot")
        rows, octets = cursor.fetchone()
    return int(rows), int(octets)


def _read(name: str, rows: int) -> float:
    """Read all rows in a format, from plan to octets; return rows a second of CPU."""
    began = _cpu_s()
    planned = pages.plan(Resource.READINGS, None, rows)
    batches = pages.batches(planned, shows_places=True)
    octets = sum(len(part) for part in WRITERS[name](Resource.READINGS, batches))
    assert planned.rows == rows
    assert octets > 0
    return rows / (_cpu_s() - began)
