"""What a database of some size costs: its table and index, ingest, each question and task, upkeep and copies.

By CPU, as other work may run on the machine: of this process, and of the server process in PostgreSQL that serves it.
Pages of the database that a statement looks at (blocks) do not depend on the machine at all.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.module_loading import import_string

from ami_headend import cached_answers
from ami_headend.console.overview_panels import QUESTIONS
from ami_headend.core.sql import select
from ami_headend.health import doctor
from ami_headend.local import embedded
from ami_headend.schedule import SCHEDULE
from bench import addresses, fleet
from bench.growth_fill import Layout
from bench.load import LoadError
from bench.million import RARE
from bench.pages import posting_site
from bench.stack import cpu_seconds, service_pids
from concentrators.feed import sequencer
from concentrators.ingest import uplink_state, verification
from concentrators.models import Concentrator, ReadDeadline, Uplink
from keyvault.cose.structures import split_sequence
from meters.models import Meter
from meters.readings import partitions
from meters.readings.obis import LOAD_PROFILE

UPLINK_FRAMES = 1_000
LOT_UPLINKS = 5
_SAMPLE_S = 0.1
# Of the schedule: those that others measure here, or that would talk to somebody.
_LEFT_OUT = {"archive-readings", "verify-archive", "look-at-components"}


@dataclass
class Cost:
    """CPU seconds of this process and of its server process in PostgreSQL; blocks; octets of the log; statements."""

    python_s: float = 0.0
    postgres_s: float = 0.0
    blocks: int = 0
    wal_octets: int = 0
    statements: int = 0
    wall_s: float = 0.0


@contextmanager
def counted(*, with_statements: bool = False) -> Iterator[Cost]:
    """Count what a block costs over the one connection of this process; no other process serves it meanwhile."""
    cost = Cost()
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("SET max_parallel_workers_per_gather = 0")
    clock = (~connection.connection.info.backend_pid << 3) | 2  # Linux: the CPU clock of another process
    before = _server()
    with CaptureQueriesContext(connection) if with_statements else _nothing() as captured:
        cpu, python, wall = time.clock_gettime(clock), time.process_time(), time.monotonic()
        try:
            yield cost
        finally:
            cost.python_s = time.process_time() - python
            cost.postgres_s, cost.wall_s = time.clock_gettime(clock) - cpu, time.monotonic() - wall
    after = _server()
    cost.blocks, cost.wal_octets = (late - early for late, early in zip(after, before, strict=True))
    cost.statements = len(captured.captured_queries) if captured else 0


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _server() -> tuple[int, int]:
    """Return the blocks that the server process has looked at, and the position of the log."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT coalesce(sum(hits + reads), 0)::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint"
            " FROM pg_stat_get_backend_io(pg_backend_pid())"
        )
        blocks, position = cursor.fetchone()
    return int(blocks), int(position)


def sizes() -> dict[str, float]:
    """Return the octets of a reading in table and index, over all partitions, and of the whole database."""
    table, index, rows = select(
        f"""SELECT sum(pg_table_size(p.oid)), sum(pg_indexes_size(p.oid)), sum(c.reltuples)
            FROM ({partitions.PARTITIONS}) AS p JOIN pg_class c ON c.oid = p.oid WHERE c.reltuples > 0"""
    )[0]
    whole = select("SELECT pg_database_size(current_database())")[0][0]
    return {
        "readings": int(rows),
        "table_octets": float(table) / rows,
        "index_octets": float(index) / rows,
        "database_gb": whole / 1e9,
    }


def upkeep() -> dict[str, Cost]:
    """Measure statistics and vacuum of a table that was just filled, and of one that was vacuumed; and partitions."""
    found = {}
    for name in ("ANALYZE", "VACUUM", "VACUUM again"):
        with counted() as found[name], connection.cursor() as cursor:
            cursor.execute(f"{name.removesuffix(' again')} meters_reading")
    month = partitions.month_after(timezone.now(), 12)
    for name, function in {"make a partition": "meters_create_month", "drop an empty one": "meters_drop_month"}.items():
        with counted() as found[name]:
            select(f"SELECT {function}(%s)", [month])
    return found


def ingest(executor: object, rounds: int) -> list[dict[str, float]]:
    """Verify one frame of each meter of forty concentrators, 1,000 an uplink, in each round; the first one warms up."""
    site = posting_site()
    found = []
    for number in range(rounds + 1):
        frames = fleet.seal(executor, site.fleet, site.next_interval + number, 1)  # type: ignore[arg-type]
        uplinks = [_received(token, body.octets) for token, body in enumerate(site.bodies(frames, UPLINK_FRAMES))]
        with counted() as cost:
            for at in range(0, len(uplinks), LOT_UPLINKS):
                verification.verify_together(uplinks[at : at + LOT_UPLINKS])
        count = sum(map(len, frames))
        accepted = sum(Uplink.objects.filter(pk__in=uplinks).values_list("accepted", flat=True))
        if accepted != count:
            raise LoadError(f"{accepted} of {count} frames were accepted")
        per_frame = {"worker_us": cost.python_s * 1e6, "postgres_us": cost.postgres_s * 1e6}
        per_frame |= {"wal_octets": cost.wal_octets, "blocks": cost.blocks}
        found.append({name: value / count for name, value in per_frame.items()})
    sequencer.number_settled(all_committed=True)
    return found


def _received(number: int, octets: bytes) -> int:
    concentrator = Concentrator.objects.filter(is_active=True).order_by("pk")[number]
    now = datetime.now(UTC)
    digest = sha256(octets).digest()
    uplink_id = uplink_state.add(concentrator.pk, octets, digest, len(split_sequence(octets)), now, now)
    assert uplink_id is not None
    return uplink_id


def questions(wanted: Layout, requests: int, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Ask for each page, list and export over Django's own stack in this process; the median of some requests."""
    client = signed_in()
    cached_answers.renew(QUESTIONS, timezone.now())
    paths = {**_of_growth(client, wanted), **{path: path for path in _lists()}}
    say(f"{len(paths)} addresses")
    found = {}
    for name, path in paths.items():
        costs, octets = [], 0
        for number in range(requests + 1):
            with counted(with_statements=True) as cost:
                octets = asked(client, path)
            if number or cost.wall_s > 5:
                costs.append(cost)
            if cost.wall_s > 5:
                break
        found[name] = rounded(costs) | {"octets": octets}
    return found


def signed_in() -> Client:
    """Return a client of Django's own stack, signed in with all rights."""
    client = Client(SERVER_NAME="127.0.0.1")
    user, _ = User.objects.get_or_create(username="bench", defaults={"is_superuser": True, "is_staff": True})
    client.force_login(user)
    return client


def _lists() -> Iterator[str]:
    """Yield the addresses of bench/addresses.py that tell of meters and readings."""
    for kind, path in addresses.every():
        if kind == "API" or (kind == "console" and ("readings" in path or "totals" in path or "meters" in path)):
            yield path
    yield reverse("admin:index")


def asked(client: Client, path: str) -> int:
    """Ask for an address and read the whole answer; return its octets. LoadError unless it is 200."""
    answer = client.get(path)
    if answer.status_code != 200:
        raise LoadError(f"{path} answered {answer.status_code}: {answer.content[:300]!r}")
    parts = answer.streaming_content if answer.streaming else [answer.content]  # type: ignore[attr-defined]
    return sum(map(len, parts))


def _of_growth(client: Client, wanted: Layout) -> dict[str, str]:
    """Return the questions about readings of the months that were filled."""
    middle = wanted.days[len(wanted.days) // 2]
    day = {"from": f"{middle}", "to": f"{middle + timedelta(days=1)}"}
    month = {"from": f"{middle}", "to": f"{middle + timedelta(days=31)}"}
    all_days = {"from": f"{wanted.days[0]}", "to": f"{wanted.days[-1]}"}
    meter = Meter.objects.order_by("pk")[wanted.daily_meters // 2]
    of_one = {"meter": bytes(meter.system_title).hex()}
    api = "/api/v1/readings"
    page = f"{api}?{urlencode(month)}"
    for _ in range(20):
        page = json.loads(client.get(page).content)["next"] or page
    return {
        "a meter's load profile, a day": f"{api}?{urlencode(of_one | day | {'register': LOAD_PROFILE})}",
        "a meter's load profile, a month": f"{api}?{urlencode(of_one | month | {'register': LOAD_PROFILE})}",
        "a meter's page, a month": f"{reverse('admin:meter', args=[meter.pk])}?period=month",
        "a meter's gaps, a month": f"/api/v1/meters/{of_one['meter']}/gaps?{urlencode(month)}",
        "readings of all, first page of a month": f"{api}?{urlencode(month)}",
        "readings of all, twentieth page": page,
        "readings of all, first page of all days": f"{api}?{urlencode(all_days)}",
        "a rare register, first page of a month": f"{api}?{urlencode(month | {'register': RARE})}",
        "export of a day, CSV": f"{api}?{urlencode(day | {'format': 'csv'})}",
        "export of a day, Parquet": f"{api}?{urlencode(day | {'format': 'parquet'})}",
        "feed, a page of 10,000": "/api/v1/feed/readings?limit=10000",
    }


def tasks() -> dict[str, dict[str, Any]]:
    """Run each task of the schedule twice, and all that doctor looks at; the dearer run counts."""
    ReadDeadline.objects.get_or_create(name="bench", defaults={"due_time": "07:00", "zone": "Etc/UTC"})
    found = {}
    todo = {name: import_string(entry["task"]) for name, entry in SCHEDULE.items() if name not in _LEFT_OUT}
    for name, run in {**todo, "doctor": doctor.examine}.items():
        costs = []
        for _ in range(2):
            with counted() as cost:
                run()
            costs.append(rounded([cost]))
        found[name] = max(costs, key=lambda one: one["postgres_ms"])
    return found


def copies(name: str) -> dict[str, dict[str, float]]:
    """Read the whole cluster by pg_basebackup, and the database by pg_dump, into nothing."""
    connection.ensure_connection()
    usual = ["-h", connection.connection.info.host, "-U", embedded.OWNER]
    commands = {
        "pg_basebackup": [*usual, "-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"],
        "pg_dump": [*usual, "-Fc", "-Z0", name],
    }
    found = {}
    for program, arguments in commands.items():
        with of_command([embedded.postgres_program(program), *arguments]) as (running, cost):
            octets = 0
            while part := running.stdout.read(1 << 20):
                octets += len(part)
        found[program] = {"gb": octets / 1e9, **cost}
    return found


@contextmanager
def of_command(command: list[str], env: dict[str, str] | None = None) -> Iterator[tuple[Any, dict[str, float]]]:
    """Run a program while its output is read; count its CPU and memory, and the CPU of PostgreSQL meanwhile."""
    services = service_pids()
    cost: dict[str, float] = {}
    before, began, log = cpu_seconds(services), time.monotonic(), _server()[1]
    running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
    peak = _Peak(running.pid)
    try:
        yield running, cost
        assert running.stdout is not None
        running.stdout.read()
    finally:
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        peak.join()
    if running.returncode:
        raise LoadError(f"{command[0]} ended with {running.returncode}")
    cost |= {
        "program_cpu_s": used.ru_utime + used.ru_stime,
        "program_mib": peak.mib,
        "postgres_cpu_s": cpu_seconds(services)["PostgreSQL"] - before["PostgreSQL"],
        "wall_s": time.monotonic() - began,
        "wal_gb": (_server()[1] - log) / 1e9,
    }


class _Peak(threading.Thread):
    """Watches the most memory that a process has held, until it ends. (What wait4 says of it is its parent's.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self.start()

    def run(self) -> None:
        while peak := self._peak():
            self.mib = peak
            time.sleep(_SAMPLE_S)

    def _peak(self) -> float | None:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:  # it has ended
            return None
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def rounded(costs: list[Cost]) -> dict[str, Any]:
    """Return the medians of some costs, in milliseconds."""
    return {
        "python_ms": round(median(one.python_s for one in costs) * 1e3, 2),
        "postgres_ms": round(median(one.postgres_s for one in costs) * 1e3, 2),
        "blocks": int(median(one.blocks for one in costs)),
        "statements": int(median(one.statements for one in costs)),
        "wal_octets": int(median(one.wal_octets for one in costs)),
    }
