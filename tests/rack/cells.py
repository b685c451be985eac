"""The matrix: what fails in each cell, and what the head-end must say meanwhile. Needs no Django."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.rack import hosts
from tests.rack.hosts import Host
from tests.rack.rack import Rack

Fault = Callable[[Rack], AbstractContextManager[None]]
WEB2_AHEAD_S, WORKER1_AHEAD_S, WORKER2_AHEAD_S = 60, 180, -180


@dataclass(frozen=True)
class Cell:
    """A fault; whether uplinks must be verified again while it lasts; what is said while it does.

    ``promotes``: another host becomes primary. ``doctor``: the name of the finding that fails. ``unready``: web hosts
    whose readiness fails.
    """

    name: str
    said: str
    fault: Fault
    heals: bool = True
    promotes: bool = False
    doctor: str = ""
    unready: tuple[str, ...] = ()


def _standbys(rack: Rack) -> list[Host]:
    primary = rack.primary()
    return [host for host in rack.databases if host is not primary]


@contextmanager
def _killed(host: Host) -> Iterator[None]:
    host.kill()
    try:
        yield
    finally:
        host.start()


def kill(choose: Callable[[Rack], Host]) -> Fault:
    return lambda rack: _killed(choose(rack))


def part(one: Callable[[Rack], Sequence[Host]], other: Callable[[Rack], Sequence[Host]]) -> Fault:
    return lambda rack: hosts.parted(one(rack), other(rack))


def slow(choose: Callable[[Rack], Host]) -> Fault:
    return lambda rack: hosts.slowed(choose(rack))


@contextmanager
def _patroni_frozen(rack: Rack) -> Iterator[None]:
    """The primary's Patroni hangs, its PostgreSQL does not: nobody there ends it, and another host is promoted."""
    with hosts.frozen(rack.primary(), of="patroni"):
        yield


@contextmanager
def _waits_cancelled(rack: Rack) -> Iterator[None]:
    """Nothing reaches the standbys, and somebody cancels every statement that waits for them, until all is over."""
    primary, ended = rack.primary(), threading.Event()

    def cancel() -> None:
        with rack.session(primary) as session:
            while not ended.wait(0.2):
                session.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    thread = threading.Thread(target=cancel)
    with hosts.frozen(primary, of="patroni"), hosts.frozen(primary, of="walsender"):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def _schedule_lost(rack: Rack) -> Iterator[None]:
    host = rack.scheduling()
    with _killed(host):
        rack.wait("the other host's beat is at work", lambda: rack.scheduling() is not host, 40)
        yield


@contextmanager
def _switched_over(rack: Rack) -> Iterator[None]:
    rack.switch_over(rack.synchronous())
    yield


@contextmanager
def _clocks_apart(rack: Rack) -> Iterator[None]:
    offs = {"web2": WEB2_AHEAD_S, "worker1": WORKER1_AHEAD_S, "worker2": WORKER2_AHEAD_S}
    for name, seconds in offs.items():
        rack.hosts[name].set_clock_off(seconds)
    try:
        yield
    finally:
        for name in offs:
            rack.hosts[name].set_clock_off(0)


@contextmanager
def _redis_frozen(rack: Rack) -> Iterator[None]:
    with hosts.frozen(rack.redis, of="redis"):
        yield


CELLS = [
    Cell("kill primary", "the primary's host loses its power", kill(lambda rack: rack.primary()), promotes=True),
    Cell(
        "kill synchronous standby",
        "the host that commits wait for",
        kill(lambda rack: rack.synchronous()),
        doctor="standbys",
    ),
    Cell(
        "kill other standby",
        "the third database host",
        kill(lambda rack: next(one for one in _standbys(rack) if one is not rack.synchronous())),
    ),
    Cell("kill web", "one of two web hosts", kill(lambda rack: rack.webs[0])),
    Cell("kill worker with schedule", "the worker host whose beat is at work", _schedule_lost),
    Cell(
        "kill other worker",
        "a worker host whose beat waits",
        kill(lambda rack: next(one for one in rack.workers if one is not rack.scheduling())),
    ),
    Cell("kill redis", "Redis, with all that it held", kill(lambda rack: rack.redis), heals=False, doctor="broker"),
    Cell("kill proxy", "the concentrators' proxy", kill(lambda rack: rack.field), heals=False),
    Cell("switchover", "a planned change of the primary", _switched_over, promotes=True),
    Cell(
        "partition workers from databases",
        "workers reach Redis, and no database",
        part(lambda rack: rack.workers, lambda rack: rack.databases),
        heals=False,
        doctor="workers",
    ),
    Cell(
        "partition web2 from databases",
        "one web host reaches no database",
        part(lambda rack: [rack.webs[1]], lambda rack: rack.databases),
        unready=("web2",),
    ),
    Cell(
        "partition webs from redis",
        "web hosts reach the database, and not Redis",
        part(lambda rack: rack.webs, lambda rack: [rack.redis]),
    ),
    Cell(
        "partition workers from redis",
        "workers reach the database, and not Redis",
        part(lambda rack: rack.workers, lambda rack: [rack.redis]),
        heals=False,
    ),
    Cell(
        "partition proxy from web1",
        "the proxy reaches one of two web hosts",
        part(lambda rack: [rack.field], lambda rack: [rack.webs[0]]),
    ),
    Cell(
        "partition primary from standbys",
        "a split: the old primary lives, is alone, and web and workers reach it",
        part(lambda rack: [rack.primary()], _standbys),
        promotes=True,
    ),
    Cell(
        "partition primary from all others",
        "the old primary lives, and nobody reaches it",
        part(
            lambda rack: [rack.primary()],
            lambda rack: [*_standbys(rack), *rack.webs, *rack.workers, rack.field, rack.redis],
        ),
        promotes=True,
    ),
    Cell(
        "partition synchronous standby from primary",
        "commits wait for a host that does not answer",
        part(lambda rack: [rack.synchronous()], lambda rack: [rack.primary()]),
    ),
    Cell("patroni frozen", "the primary's Patroni hangs, and its PostgreSQL lives", _patroni_frozen, promotes=True),
    Cell(
        "waits cancelled",
        "the primary's Patroni and its replication hang, and whoever waits for a standby is cancelled",
        _waits_cancelled,
        promotes=True,
    ),
    Cell("redis frozen", "Redis takes connections and does not answer", _redis_frozen, heals=False, doctor="broker"),
    Cell("slow primary", "the primary's host gets a tenth of its time", slow(lambda rack: rack.primary())),
    Cell("slow web", "a web host gets a tenth of its time", slow(lambda rack: rack.webs[0])),
    Cell("slow worker", "a worker host gets a tenth of its time", slow(lambda rack: rack.workers[0])),
    Cell("clocks apart", "the clocks of web and workers are minutes apart", _clocks_apart, doctor="clock"),
]
NAMES = {cell.name: cell.said for cell in CELLS} | {
    "host lost with its disk": "a web host, then a worker host, each with its key journal; a new one takes its place",
    "asynchronous promotion": "the primary is lost with commits that no standby has",
    "rolling upgrade": "hosts of the former and of this release side by side, with migrations between them, and back",
}
