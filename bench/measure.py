"""Single measurements: the floor, the whole system, row by row."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import connection
from django.db.models import Max

from bench.load import Body, LoadError, Posted, post
from bench.site import Site
from bench.stack import Stack, cpu_seconds, memory_octets, service_pids
from concentrators.models import Uplink

STALL_S = 120.0
_POLL_S = 0.005


class StalledError(Exception):
    """Uplinks stayed unverified."""


@dataclass
class SystemRun:
    """One run of the whole system: CPU seconds and memory (octets) by process, latencies in seconds.

    ``wal_octets``: what PostgreSQL wrote to its log meanwhile, images of pages among it.
    """

    frames: int
    seconds: float
    latencies: list[float] = field(repr=False)
    cpu: dict[str, float]
    memory: dict[str, int]
    wal_octets: int

    @property
    def rate(self) -> float:
        return self.frames / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds a frame of all processes together."""
        return sum(self.cpu.values()) / self.frames * 1e6


def system(
    site: Site, stack: Stack, frames: list[list[bytes]], size: int, per_second: float | None = None
) -> SystemRun:
    """Post all frames in uplinks of ``size``, wait until all are verified, and check the result.

    ``per_second`` posts that many uplinks a second instead of as many as are accepted.
    """
    site.use()
    bodies = site.bodies(frames, size)
    count = sum(map(len, frames))
    last_uplink = Uplink.objects.aggregate(last=Max("pk"))["last"] or 0
    pids = {name: process.pid for name, process in stack.processes.items()} | service_pids()
    cpu_before, log_before = cpu_seconds(pids), _log_position()
    began = time.perf_counter()
    posted = _post(stack, "/api/v1/uplinks", "application/cbor-seq", bodies, per_second)
    _wait_verified(stack)
    seconds = time.perf_counter() - began
    cpu = {name: after - cpu_before[name] for name, after in cpu_seconds(pids).items()}
    memory, wal_octets = memory_octets(pids), _log_position() - log_before
    site.check(count, last_uplink, with_totals=last_uplink == 0)
    return SystemRun(count, seconds, _latencies(posted), cpu, memory, wal_octets)


def _log_position() -> int:
    """Return how many octets the server has ever written to its log (WAL)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        return int(cursor.fetchone()[0])


def rowwise(site: Site, stack: Stack, frames: list[bytes], body_of: Callable[[bytes], bytes]) -> float:
    """Post one frame in each request and return frames a second; each is verified when its request is answered."""
    site.use()
    bodies = [site.bodies([[frame]] * len(site.tokens), 1)[0]._replace(octets=body_of(frame)) for frame in frames]
    began = time.perf_counter()
    _post(stack, "/frames", "application/json", bodies)
    seconds = time.perf_counter() - began
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM meters_reading")
        stored = cursor.fetchone()[0]
    if stored != 2 * len(frames):
        raise StalledError(f"row by row stored {stored} readings of {len(frames)} frames")
    return len(frames) / seconds


def _post(
    stack: Stack, path: str, content_type: str, bodies: list[Body], per_second: float | None = None
) -> list[Posted]:
    try:
        return post(stack.port, path, content_type, bodies, per_second)
    except (LoadError, OSError) as error:
        raise LoadError(f"{error}\n{stack.log('web').read_text(errors='replace')[-2000:]}") from error


def _wait_verified(stack: Stack) -> None:
    deadline = time.monotonic() + STALL_S
    while Uplink.objects.filter(verified_at=None).exists():
        if time.monotonic() > deadline:
            stack.check()
            raise StalledError(f"uplinks stay unverified after {STALL_S:g} s; logs: {stack.folder}")
        time.sleep(_POLL_S)


def _latencies(posted: list[Posted]) -> list[float]:
    """Return seconds from the first octet sent to the verdict, for each uplink."""
    sent = {row.uplink: row.sent_at for row in posted}
    verified = Uplink.objects.filter(pk__in=[uplink for uplink in sent if uplink]).values_list("pk", "verified_at")
    return [at.timestamp() - sent[uplink] for uplink, at in verified if at is not None]
