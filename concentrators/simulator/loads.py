"""The load of a run, households or a file of recordings, and the plan that follows from it. No Django."""

import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.keys import signs
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.recorded_loads import INTERVAL_MINUTES, RecordedError, RecordedLoad
from concentrators.simulator.sealers import ALL_SCHEMES, METER_SCHEMES

_DAY_S = 86_400
_OUTAGE_AGO_S = 2_700  # when an outage began
_CLOCK_SKEW_S = 300
_AGREED_EVERY = 5
_ENROLLED_EVERY = 4
_MANY = 100


class PlanError(ValueError):
    """A run that is impossible: the caller's mistake, named in the message."""


def parse_schemes(text: str) -> list[str]:
    """The schemes of a fleet, in turn, from ``all`` or ``name=weight,...``. PlanError names what is wrong.

    ``all`` has each scheme twice, or once where every frame takes arithmetic on a curve.
    """
    schemes: list[str] = []
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name != "all" and name not in METER_SCHEMES:
            raise PlanError(f"no scheme is called {name!r}; there are: all, {', '.join(METER_SCHEMES)}")
        if number and not (number.isascii() and number.isdigit() and 1 <= int(number) <= _MANY):
            raise PlanError(f"{part!r}: a weight is a whole number from 1 to {_MANY}")
        schemes += (ALL_SCHEMES if name == "all" else [name]) * int(number or 1)
    return schemes


@dataclass(frozen=True)
class RunRequest:
    """A requested run. ``meters`` and ``days`` None mean all of a file, or a default.

    In fleets of other schemes than ``ccm`` alone some meters enrol by certificate, with ``enrols``; without it none
    signs, either: both take an authority.
    """

    concentrators: int = 3
    meters: int | None = None
    days: int | None = None
    seed: int = 1
    interval_minutes: list[int] = field(default_factory=lambda: [30])
    rates: dict[str, float] = field(default_factory=dict)
    faults: dict[str, float] = field(default_factory=dict)
    readings: Path | None = None
    as_recorded: bool = False
    endless: bool = False
    outage: bool = False  # the power of the last concentrator's meters went a while ago, and comes back
    gap_runs: int = 1024
    sessions: int = 64
    retention_days: int = 1096
    derived_every: int = 4
    schemes: list[str] = field(default_factory=lambda: ["ccm"])
    enrols: bool = True


def make_plan(wish: RunRequest, now: datetime) -> tuple[Plan, Load]:
    """Make the plan of a new run, and its load. PlanError or RecordedError if it is impossible."""
    if wish.readings is not None:
        plan, load = _recorded_plan(wish, wish.readings, now)
    else:
        plan, load = _household_plan(wish, now)
    now_s = int(now.timestamp())
    if plan.start_s < now_s - wish.retention_days * _DAY_S:
        start = datetime.fromtimestamp(plan.start_s, UTC)
        raise PlanError(
            f"the readings begin {start:%Y-%m-%d}, before what the head-end keeps ({wish.retention_days} days): "
            "limit them with --days, or leave out --as-recorded"
        )
    if plan.end_s is not None and plan.end_s > now_s + _CLOCK_SKEW_S:
        raise PlanError("the readings end in the future: leave out --as-recorded")
    return plan, load


def load_of(plan: Plan) -> Load:
    """Return the load of an existing plan; RecordedError if its file has changed."""
    if not plan.source:
        return HouseholdLoad(plan.seed, plan.start_s)
    path = Path(plan.source["path"])
    load = _read(path, plan.source["meters"], plan.source["days"], plan.source["end_before_s"])
    if _fingerprint(path) != plan.source["sha256"] or load.start_s != plan.start_s:
        raise RecordedError(f"{path} is not the file that this run was begun with")
    return load


def _recorded_plan(wish: RunRequest, path: Path, now: datetime) -> tuple[Plan, Load]:
    end_before_s = None if wish.as_recorded else int(now.timestamp())
    load = _read(path, wish.meters, wish.days, end_before_s)
    source: dict[str, object] = {
        "path": str(path.absolute()),
        "meters": wish.meters,
        "days": wish.days,
        "end_before_s": end_before_s,
        "sha256": _fingerprint(path),
    }
    names = [recording.meter for recording in load.recordings]
    return _plan(wish, names, [INTERVAL_MINUTES], load.start_s, load.end_s, source), load


def _household_plan(wish: RunRequest, now: datetime) -> tuple[Plan, Load]:
    lengths = wish.interval_minutes
    if any(length % min(lengths) or 1440 % length for length in lengths):
        raise PlanError(f"interval lengths {lengths} must divide a day, and each be a multiple of the shortest")
    end_s = int(now.timestamp()) // (max(lengths) * 60) * max(lengths) * 60
    start_s = end_s - (7 if wish.days is None else wish.days) * _DAY_S
    count = 100 if wish.meters is None else wish.meters
    names = [f"household-{number + 1}" for number in range(count)]
    plan = _plan(wish, names, lengths, start_s, None if wish.endless else end_s, {})
    if wish.outage:
        plan = replace(plan, outage_at_s=end_s - _OUTAGE_AGO_S)
    return plan, HouseholdLoad(wish.seed, start_s)


def left_out(wish: RunRequest) -> list[str]:
    """The schemes of a run that it has no meters of: those that sign need an authority that the run pins itself."""
    return [] if wish.enrols else [one for one in wish.schemes if signs(one)]


def _plan(
    wish: RunRequest, names: list[str], lengths: list[int], start_s: int, end_s: int | None, source: dict[str, object]
) -> Plan:
    out = left_out(wish)
    schemes = [one for one in wish.schemes if one not in out]
    if not schemes:
        raise PlanError("meters that sign need an authority, which takes a second person's approval here")
    day_aligned_half = None if end_s is None else start_s + (end_s - start_s) // 2 // _DAY_S * _DAY_S
    return Plan(
        run=secrets.token_hex(4),
        seed=wish.seed,
        meters=names,
        concentrators=wish.concentrators,
        interval_minutes=lengths,
        start_s=start_s,
        end_s=end_s,
        moved_at_s=day_aligned_half if wish.concentrators > 1 and day_aligned_half != start_s else None,
        rates=wish.rates,
        gap_runs=wish.gap_runs,
        sessions=wish.sessions,
        retention_days=wish.retention_days,
        source=source,
        faults=wish.faults,
        derived_every=wish.derived_every,
        schemes=schemes,
        agreed_every=_AGREED_EVERY if set(wish.schemes) != {"ccm"} else 0,
        enrolled_every=_ENROLLED_EVERY if wish.enrols and set(wish.schemes) != {"ccm"} else 0,
    )


def _read(path: Path, meters: int | None, days: int | None, end_before_s: int | None) -> RecordedLoad:
    end_before = None if end_before_s is None else datetime.fromtimestamp(end_before_s, UTC)
    return RecordedLoad.read(path, meters=meters, days=days, end_before=end_before)


def _fingerprint(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
