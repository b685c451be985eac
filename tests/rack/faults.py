"""What fails in a cell: each fault lasts as long as a block runs, and is undone at its end."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import psycopg

from tests.rack import hosts, services
from tests.rack.cable import bad_cable
from tests.rack.hosts import Host
from tests.rack.rack import Rack

Fault = Callable[[Rack], AbstractContextManager[None]]
One = Callable[[Rack], Host]
Some = Callable[[Rack], Sequence[Host]]

WEB2_AHEAD_S, WORKER1_AHEAD_S, WORKER2_AHEAD_S = 60, 180, -180
_LATE_S, _LOST = 0.1, 0.07  # each way


def primary(rack: Rack) -> Host:
    return rack.primary()


def synchronous(rack: Rack) -> Host:
    return rack.synchronous()


def standbys(rack: Rack) -> list[Host]:
    now = rack.primary()
    return [host for host in rack.databases if host is not now]


@contextmanager
def _killed(host: Host) -> Iterator[None]:
    host.kill()
    try:
        yield
    finally:
        host.start()


def kill(choose: One) -> Fault:
    return lambda rack: _killed(choose(rack))


def part(one: Some, other: Some) -> Fault:
    return lambda rack: hosts.parted(one(rack), other(rack))


def drop(sender: Some, receiver: Some) -> Fault:
    """What some send to others is lost; the other way everything arrives."""
    return lambda rack: hosts.parted(sender(rack), receiver(rack), both=False)


def slow(choose: One) -> Fault:
    return lambda rack: hosts.slowed(choose(rack))


def late(some: Some, others: Some) -> Fault:
    return lambda rack: _badly_wired(some(rack), others(rack), late_s=_LATE_S)


def lossy(some: Some, others: Some) -> Fault:
    return lambda rack: _badly_wired(some(rack), others(rack), lost=_LOST)


@contextmanager
def _badly_wired(some: Sequence[Host], others: Sequence[Host], **bad: float) -> Iterator[None]:
    with ExitStack() as cables:
        for host in some:
            cables.enter_context(bad_cable(host, others, **bad))
        yield


def both(one: Fault, other: Fault) -> Fault:
    """Two faults at once; each is chosen before either begins."""

    @contextmanager
    def at_once(rack: Rack) -> Iterator[None]:
        first, second = one(rack), other(rack)
        with first, second:
            yield

    return at_once


@contextmanager
def patroni_frozen(rack: Rack) -> Iterator[None]:
    """The primary's Patroni hangs, its PostgreSQL does not: nobody there ends it, and another host is promoted."""
    with hosts.frozen(rack.primary(), of="patroni"):
        yield


def postgres_frozen(choose: One) -> Fault:
    """PostgreSQL hangs with all its sessions, and Patroni beside it goes on."""

    @contextmanager
    def fault(rack: Rack) -> Iterator[None]:
        with hosts.frozen(choose(rack), of="postgres"):
            yield

    return fault


@contextmanager
def waits_cancelled(rack: Rack) -> Iterator[None]:
    """Nothing reaches the standbys, and somebody cancels every statement that waits for them, until all is over."""
    host, ended = rack.primary(), threading.Event()

    def cancel() -> None:
        with rack.session(host) as session:
            while not ended.wait(0.2):
                session.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    thread = threading.Thread(target=cancel)
    with hosts.frozen(host, of="patroni"), hosts.frozen(host, of="walsender"):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def quorum_lost(rack: Rack) -> Iterator[None]:
    """Two of three members of etcd are gone, and their hosts are not."""
    with ExitStack() as stack:
        for host in standbys(rack):
            stack.enter_context(hosts.halted(host, "etcd"))
        yield


@contextmanager
def schedule_lost(rack: Rack) -> Iterator[None]:
    host = rack.scheduling()
    with _killed(host):
        rack.wait("the other host's beat is at work", lambda: rack.scheduling() is not host, 40)
        yield


@contextmanager
def primary_and_schedule_lost(rack: Rack) -> Iterator[None]:
    with _killed(rack.scheduling()), _killed(rack.primary()):
        yield


@contextmanager
def switched_over(rack: Rack) -> Iterator[None]:
    rack.switch_over(rack.synchronous())
    yield


@contextmanager
def _clocks_off(offs: Sequence[tuple[Host, int]]) -> Iterator[None]:
    for host, seconds in offs:
        host.set_clock_off(seconds)
    try:
        yield
    finally:
        for host, _ in offs:
            host.set_clock_off(0)


def clock_off(choose: One, seconds: int) -> Fault:
    return lambda rack: _clocks_off([(choose(rack), seconds)])


def clocks_apart(rack: Rack) -> AbstractContextManager[None]:
    offs = {"web2": WEB2_AHEAD_S, "worker1": WORKER1_AHEAD_S, "worker2": WORKER2_AHEAD_S}
    return _clocks_off([(rack.hosts[name], seconds) for name, seconds in offs.items()])


def lost_to_a_clock(seconds: int) -> Fault:
    """The primary is lost, and who is promoted has a wrong clock."""

    @contextmanager
    def fault(rack: Rack) -> Iterator[None]:
        with _clocks_off([(rack.synchronous(), seconds)]), _killed(rack.primary()):
            yield

    return fault


def full(choose: One, folder: str) -> Fault:
    """The disk of a folder of a host has no room left."""

    @contextmanager
    def fault(rack: Rack) -> Iterator[None]:
        with hosts.filled(choose(rack).folder / folder):
            yield

    return fault


@contextmanager
def database_full(rack: Rack) -> Iterator[None]:
    """The disk of the primary has no room left; what is written goes on until there is none for the log either."""
    host = rack.primary()
    with hosts.filled(host.folder / services.DATABASE_FOLDER) as fill:
        with suppress(psycopg.Error):
            while host.name in rack.leaders():
                rack.on(host, "SELECT pg_switch_wal()")
                fill()
                time.sleep(0.2)
        yield


@contextmanager
def redis_frozen(rack: Rack) -> Iterator[None]:
    with hosts.frozen(rack.redis, of="redis"):
        yield
