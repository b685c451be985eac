"""Real processes while everything around them fails, again and again: nothing is lost, and nothing counts twice.

Concentrators post all the while, each body until it is answered 202. One fault after the other, in an order that is
printed: kill -9 of every process, PostgreSQL and Redis killed, frozen and answering with errors, a database that
cannot be written, clients that stall, a receiver of alerts that drips, a clock that is set ahead and back. After
each, a fresh uplink is verified within a bound; at the end every frame was accepted once and every total is right.
"""

import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import httpx
import psycopg
import pytest
from django.db import connections
from django.utils import timezone
from psycopg import sql
from pytest_django import DjangoDbBlocker

from ami_headend.alerts.models import Channel, Delivery
from ami_headend.local import embedded
from ami_headend.processes import worker_commands
from tests.flows import redis_faults
from tests.flows import site as sites
from tests.flows.load import Poster, Probe, assert_nothing_lost, posting
from tests.flows.services import Services, freeze, processes_over, thaw
from tests.flows.site import Site
from tests.flows.stack import Stack, wait_for
from tests.server.clients import sent
from tests.server.rude import half_sign_in, half_uplink

SECONDS = int(os.environ.get("SOAK_SECONDS", "420"))
RECOVERED_WITHIN_S = 90.0
CLOCK_STEPS_S = (-3_600, 7_200)
_CLOCK_SOURCE = Path(__file__).with_name("clock.c")


class Faults:
    """What goes wrong, each as a method; each ends with everything running again."""

    def __init__(self, stack: Stack, services: Services, clock: Path, site: Site) -> None:
        self.stack, self.services, self.clock, self.site = stack, services, clock, site
        self.commands = worker_commands(2)

    def names(self) -> list[str]:
        return sorted(name for name in dir(type(self)) if not name.startswith("_") and name != "names")

    def worker_children_killed(self) -> None:
        for child in self.stack.children("worker"):
            child.kill()

    def worker_killed(self) -> None:
        self._killed("worker")

    def background_worker_killed(self) -> None:
        self._killed("background")

    def deliveries_worker_killed(self) -> None:
        self._killed("deliveries")

    def alerts_worker_killed(self) -> None:
        self._killed("alerts")

    def beat_killed(self) -> None:
        self._killed("beat")

    def web_killed(self) -> None:
        self._killed("web")

    def web_child_killed(self) -> None:
        for child in self.stack.children("web")[:1]:
            child.kill()

    def redis_killed(self) -> None:
        self.services.redis.process.kill()
        self.services.redis.process.wait()
        time.sleep(2)
        self.services.redis = embedded.start_redis(self.services.folder)

    def redis_frozen(self) -> None:
        self.services.redis.process.send_signal(SIGSTOP)
        time.sleep(4)
        self.services.redis.process.send_signal(SIGCONT)

    def redis_read_only(self) -> None:
        self._spoilt("READONLY")

    def redis_full(self) -> None:
        self._spoilt("OOM")

    def postgres_stopped(self) -> None:
        self.services.stop_postgres()
        time.sleep(2)
        self.services.start_postgres()

    def postgres_frozen(self) -> None:
        freeze(self.services.postgres.process)
        time.sleep(6)
        thaw(self.services.postgres.process)

    def database_read_only(self) -> None:
        self._alter("SET default_transaction_read_only = on")
        time.sleep(4)
        self._alter("RESET default_transaction_read_only")

    def clients_stalled(self) -> None:
        with ExitStack() as open_sockets:
            for octets in [half_sign_in(), half_uplink(self.site)] * 8:
                open_sockets.enter_context(sent(self.stack.port, octets))
            for path in ("/health/live", "/health/ready"):
                assert httpx.get(f"{self.stack.base_url}{path}", timeout=10).status_code == 200
            time.sleep(3)

    def receiver_drips(self) -> None:
        now = timezone.now()
        with _dripping() as port:
            channel = Channel.objects.create(
                name=f"drip {port}", kind="webhook", address=f"http://127.0.0.1:{port}/", is_enabled=True
            )
            for _ in range(4):
                Delivery.objects.create(channel=channel, event="test", body={}, created_at=now, due_at=now)
            time.sleep(20)
            Channel.objects.filter(pk=channel.pk).update(is_enabled=False)

    def clock_steps(self) -> None:
        for step in (*CLOCK_STEPS_S, 0):
            _set_off(self.clock, step)
            time.sleep(6)

    def _killed(self, name: str) -> None:
        self.stack.kill(name)
        time.sleep(1)
        self.stack.start(name, self.commands.get(name))

    def _spoilt(self, trouble: str) -> None:
        with self.stack.redis() as broker:
            redis_faults.spoil(broker, trouble)
            time.sleep(4)
            redis_faults.mend(broker)

    def _alter(self, change: str) -> None:
        """A setting of the database, which every session then gets anew."""
        with psycopg.connect(self.stack.owner_url, autocommit=True) as owner:
            owner.execute("SET default_transaction_read_only = off")
            name = sql.Identifier(owner.info.dbname)
            owner.execute(sql.SQL("ALTER DATABASE {} " + change).format(name))
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        connections.close_all()


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 900)
def test_nothing_is_lost_whatever_fails(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("soak")
    services = Services(tmp_path_factory.mktemp("services"))
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    try:
        with django_db_blocker.unblock(), _stack(services, folder) as (stack, clock):
            posters = [Poster(sites.found(stack, 20)) for _ in range(3)]
            faults = Faults(stack, services, clock, sites.found(stack, 1))
            with posting(posters):
                done = _fail_again_and_again(stack, faults, random.Random(seed))
            assert_nothing_lost(posters)
            answers = sum((poster.answers for poster in posters), Counter())
            frames = sum(poster.intervals * len(poster.site.devices) for poster in posters)
            uplinks = sum(len(poster.uplinks) for poster in posters)
            print(f"\nseed {seed}: {frames} frames in {uplinks} uplinks, each accepted once; posts: {dict(answers)}")
            print(f"{len(done)} faults: {dict(Counter(done))}; clocks were set: {'clock_steps' in done}")
    finally:
        services.stop()


@contextmanager
def _stack(services: Services, folder: Path) -> Iterator[tuple[Stack, Path]]:
    """Web, a worker for each kind of work, and beat, whose clock is what the file says."""
    clock = folder / "clock"
    _set_off(clock, 0)
    environ = {
        "UPLINK_RATE": "100000/minute",
        "WEBHOOK_ALLOW_HTTP": "1",
        "WEBHOOK_REFUSED_NETWORKS": "192.0.2.0/24",
        "AMI_VAR_DIR": str(folder),
    }
    if compiler := shutil.which("cc"):
        library = folder / "clock.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _CLOCK_SOURCE], check=True)
        environ |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(clock)}
    with processes_over(services, folder, ("web", "beat"), environ) as stack:
        for name, command in worker_commands(2).items():
            stack.start(name, command)
        yield stack, clock


def _set_off(clock: Path, seconds: int) -> None:
    """Sets the clock of the processes off, in place: they have the file mapped."""
    with clock.open("r+b" if clock.exists() else "wb") as file:
        file.write(struct.pack("i", seconds))


def _fail_again_and_again(stack: Stack, faults: Faults, chance: random.Random) -> list[str]:
    """Every fault once, then any of them until the time is over; after each the head-end must recover."""
    names = [name for name in faults.names() if name != "clock_steps" or "LD_PRELOAD" in stack.env]
    ahead, done = chance.sample(names, len(names)), []
    ends = time.monotonic() + SECONDS
    while ahead or time.monotonic() < ends:
        name = ahead.pop() if ahead else chance.choice(names)
        done.append(name)
        print(f"{name} ...", flush=True)
        connections.close_all()  # this process's own may have been ended by the fault before
        getattr(faults, name)()
        began = time.monotonic()
        wait_for(f"the head-end recovers from {name} (so far {done})", Probe(faults.site).step, RECOVERED_WITHIN_S)
        print(f"  recovered in {time.monotonic() - began:.1f} s", flush=True)
        for process in [one for one, handle in stack.processes.items() if handle.poll() is not None]:
            print(f"  {process} ended by itself, and is started again as its unit would", flush=True)
            stack.start(process, faults.commands.get(process))
    return done


@contextmanager
def _dripping() -> Iterator[int]:
    """A server that answers every connection with one octet of a header every half second, for ever."""
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not ended.wait(0.5):
                client.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)

        def serve() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()
