"""The matrix: what fails in each cell, and what is said meanwhile. Needs no Django."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.rack import faults
from tests.rack.faults import Fault, both, clock_off, drop, full, kill, late, lossy, part, postgres_frozen, slow
from tests.rack.hosts import Host
from tests.rack.rack import Rack


@dataclass(frozen=True)
class Cell:
    """A fault; whether uplinks must be verified again while it lasts; what is said while it does.

    ``promotes``: another host becomes primary. ``components``: findings of doctor that fail, each of which is an alert
    and a metric, too, and ends by itself. ``conditions``: those of other alerts that come. ``found``: a finding of
    doctor alone, where no alert can be sent. ``unready``: web hosts whose readiness fails.
    """

    name: str
    said: str
    fault: Fault
    heals: bool = True
    promotes: bool = False
    components: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    found: str = ""
    unready: tuple[str, ...] = ()


def _workers(rack: Rack) -> Sequence[Host]:
    return rack.workers


def _webs(rack: Rack) -> Sequence[Host]:
    return rack.webs


def _databases(rack: Rack) -> Sequence[Host]:
    return rack.databases


def _web2(rack: Rack) -> Sequence[Host]:
    return [rack.webs[1]]


def _redis(rack: Rack) -> Sequence[Host]:
    return [rack.redis]


def _primary(rack: Rack) -> Sequence[Host]:
    return [rack.primary()]


def _synchronous(rack: Rack) -> Sequence[Host]:
    return [rack.synchronous()]


def _other_standby(rack: Rack) -> Host:
    return next(one for one in faults.standbys(rack) if one is not rack.synchronous())


def _other_worker(rack: Rack) -> Host:
    return next(one for one in rack.workers if one is not rack.scheduling())


def _all_but_primary(rack: Rack) -> Sequence[Host]:
    return [*faults.standbys(rack), *rack.webs, *rack.workers, rack.field, rack.redis]


_STANDBYS, _HOSTS, _BROKER, _CLOCK = ("standbys",), ("hosts",), ("broker",), ("clock",)

_LOST = [
    Cell(
        "kill primary", "the primary's host loses its power", kill(faults.primary), promotes=True, components=_STANDBYS
    ),
    Cell("kill synchronous standby", "the host that commits wait for", kill(faults.synchronous), components=_STANDBYS),
    Cell("kill other standby", "the third database host", kill(_other_standby), components=_STANDBYS),
    Cell("kill web", "one of two web hosts", kill(lambda rack: rack.webs[0]), components=_HOSTS),
    Cell("kill worker with schedule", "the worker host whose beat is at work", faults.schedule_lost, components=_HOSTS),
    Cell("kill other worker", "a worker host whose beat waits", kill(_other_worker), components=_HOSTS),
    Cell("kill redis", "Redis, with all that it held", kill(lambda rack: rack.redis), heals=False, components=_BROKER),
    Cell(
        "kill proxy",
        "the concentrators' proxy",
        kill(lambda rack: rack.field),
        heals=False,
        conditions=("silent_concentrator",),
    ),
    Cell("switchover", "a planned change of the primary", faults.switched_over, promotes=True),
    Cell(
        "primary and schedule lost",
        "the primary and the worker host whose beat is at work, at once",
        faults.primary_and_schedule_lost,
        promotes=True,
        components=(*_STANDBYS, *_HOSTS),
    ),
    Cell(
        "primary and redis lost",
        "the primary and Redis, at once",
        both(kill(lambda rack: rack.redis), kill(faults.primary)),
        heals=False,
        promotes=True,
        components=(*_STANDBYS, *_BROKER),
    ),
]
_PARTED = [
    Cell(
        "partition workers from databases",
        "workers reach Redis, and no database",
        part(_workers, _databases),
        heals=False,
        components=("workers", "schedule"),
    ),
    Cell(
        "partition web2 from databases",
        "one web host reaches no database",
        part(_web2, _databases),
        components=_HOSTS,
        unready=("web2",),
    ),
    Cell(
        "partition webs from redis",
        "web hosts reach the database, and not Redis",
        part(_webs, _redis),
        components=_HOSTS,
    ),
    Cell(
        "partition workers from redis",
        "workers reach the database, and not Redis",
        part(_workers, _redis),
        heals=False,
        components=_HOSTS,
    ),
    Cell(
        "partition proxy from web1",
        "the proxy reaches one of two web hosts",
        part(lambda rack: [rack.field], lambda rack: [rack.webs[0]]),
    ),
    Cell(
        "partition primary from standbys",
        "a split: the old primary lives, is alone, and web and workers reach it",
        part(_primary, faults.standbys),
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "partition primary from all others",
        "the old primary lives, and nobody reaches it",
        part(_primary, _all_but_primary),
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "partition synchronous standby from primary",
        "commits wait for a host that does not answer",
        part(_synchronous, _primary),
        components=_STANDBYS,
    ),
    Cell(
        "deaf synchronous standby",
        "what the primary sends it is lost, and what it sends arrives",
        drop(_primary, _synchronous),
        components=_STANDBYS,
    ),
    Cell(
        "mute web2",
        "what a web host sends the databases is lost, and what they send arrives",
        drop(_web2, _databases),
        components=_HOSTS,
        unready=("web2",),
    ),
    Cell(
        "mute workers",
        "what workers send Redis is lost, and what it sends arrives",
        drop(_workers, _redis),
        heals=False,
        components=_HOSTS,
    ),
    Cell("late workers", "200 ms from workers to databases and back", late(_workers, _databases)),
    Cell("late primary", "200 ms from the primary to its standbys and back", late(_primary, faults.standbys)),
    Cell("lossy workers", "7 % of what workers and databases send each other is lost", lossy(_workers, _databases)),
    Cell(
        "lossy primary",
        "7 % of what the primary and its standbys send each other is lost",
        lossy(_primary, faults.standbys),
    ),
]
_ILL = [
    Cell(
        "patroni frozen",
        "the primary's Patroni hangs, and its PostgreSQL lives",
        faults.patroni_frozen,
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "postgres of primary frozen",
        "the primary's PostgreSQL hangs with all its sessions, and its Patroni lives",
        postgres_frozen(faults.primary),
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "disk of primary full",
        "there is no room left on the disk of the primary",
        faults.database_full,
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "postgres of standby frozen",
        "the PostgreSQL that commits wait for hangs, and its Patroni lives",
        postgres_frozen(faults.synchronous),
        components=_STANDBYS,
    ),
    Cell(
        "quorum lost",
        "two of three members of etcd are gone, and their hosts are not: there is no primary",
        faults.quorum_lost,
        heals=False,
        found="database",
        unready=("web1", "web2"),
    ),
    Cell(
        "waits cancelled",
        "the primary's Patroni and its replication hang, and whoever waits for a standby is cancelled",
        faults.waits_cancelled,
        promotes=True,
        components=_STANDBYS,
    ),
    Cell(
        "redis frozen",
        "Redis takes connections and does not answer",
        faults.redis_frozen,
        heals=False,
        components=_BROKER,
    ),
    Cell("slow primary", "the primary's host gets a tenth of its time", slow(faults.primary)),
    Cell("slow web", "a web host gets a tenth of its time", slow(lambda rack: rack.webs[0])),
    Cell("slow worker", "a worker host gets a tenth of its time", slow(lambda rack: rack.workers[0])),
    Cell("clocks apart", "the clocks of web and workers are minutes apart", faults.clocks_apart, components=_CLOCK),
    Cell(
        "clock of primary ahead",
        "the primary's clock goes five minutes ahead, and back",
        clock_off(faults.primary, 300),
        components=_CLOCK,
    ),
    Cell(
        "clock of primary behind",
        "the primary's clock goes five minutes back, and ahead again",
        clock_off(faults.primary, -300),
        components=_CLOCK,
    ),
    Cell(
        "lost to a clock ahead",
        "the primary is lost, and the clock of the standby that is promoted is five minutes ahead",
        faults.lost_to_a_clock(300),
        promotes=True,
        components=(*_STANDBYS, *_CLOCK),
    ),
    Cell(
        "lost to a clock behind",
        "the primary is lost, and the clock of the standby that is promoted is five minutes behind",
        faults.lost_to_a_clock(-300),
        promotes=True,
        components=(*_STANDBYS, *_CLOCK),
    ),
    Cell(
        "journal of web1 full",
        "there is no room left in the folder of a web host's key journal",
        full(lambda rack: rack.webs[0], "var/journal"),
        components=_HOSTS,
    ),
]
CELLS = [*_LOST, *_PARTED, *_ILL]
NAMES = {cell.name: cell.said for cell in CELLS} | {
    "host lost with its disk": "a web host, then a worker host, each with its key journal; a new one takes its place",
    "asynchronous promotion": "the primary is lost with commits that no standby has",
    "rolling upgrade": "hosts of the former and of this release side by side, with migrations between them, and back",
}
