"""The closing comparison of readings, events and interval totals: each value of each meter, and what they add up to."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import connection

from concentrators.models import IntervalTotal
from concentrators.simulator.closing_report import Closing, differences
from concentrators.simulator.keys import pushes
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.packs import ENERGY_REGISTER
from concentrators.simulator.plan import Load, Plan, PlannedInterval
from concentrators.simulator.spool import ExtraValue, Spool
from concentrators.totals.totals import schemes_without_totals
from keyvault.schemes.table import SCHEMES
from meters.models import Meter, MeterEvent, Register
from meters.readings.obis import LOAD_PROFILE

_CHUNK_READINGS = 400_000
_PUSH_NUMBERS = {one.number: one for one in SCHEMES if pushes(one.name)}


class _Total(NamedTuple):
    """The place of a total: a concentrator by its number in the run, minutes, and the start (Unix seconds)."""

    concentrator: int
    interval_minutes: int
    start_s: int


class _Reading(NamedTuple):
    """A stored value, minutes of its interval (0: none; -1: it came in no uplink of the run), and its mark.

    The mark is the number of the scheme of a DLMS meter; of all others it is None.
    """

    value: int
    minutes: int
    mark: int | None = None


_Place = tuple[int, int]  # register and Unix second


@dataclass
class _Truth:
    """What the readings of a run have to be: of one meter after the other, and the totals of all."""

    cumulative: int
    interval: int
    registers: Mapping[str, int]
    without_totals: Collection[int]  # numbers of schemes
    totals: defaultdict[_Total, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    readings: dict[_Place, _Reading] = field(default_factory=dict)
    events: dict[_Place, int] = field(default_factory=dict)

    def add(self, plan: Plan, number: int, one: PlannedInterval, *, masked: bool, mark: int | None) -> None:
        """An interval of a meter, and the event that it reports then."""
        total = self.totals[_Total(plan.assigned_to(number, one.start_s), one.minutes, one.start_s)]
        if masked or mark in self.without_totals:
            total[2] += 1
        else:
            total[0] += one.energy_wh
            total[1] += 1
        if not masked:
            self.readings[self.cumulative, one.start_s] = _Reading(one.register_wh, 0, mark)
            self.readings[self.interval, one.start_s] = _Reading(one.energy_wh, one.minutes, mark)
        event = plan.event_in(number, one)
        if event is not None:
            self.events[self.registers[event.register], event.captured_at_s] = event.code

    def add_said(self, said: ExtraValue) -> None:
        """A value that a meter sent because of a command."""
        if said.register == ENERGY_REGISTER:
            self.readings[self.cumulative, said.at_s] = _Reading(said.value, 0)
        else:
            self.events[self.registers[said.register], said.at_s] = said.value


def compare_readings(
    closing: Closing, plan: Plan, load: Load, spool: Spool, uplinks: set[int], concentrators: dict[int, int]
) -> None:
    """Compare every reading and event of every meter, and the interval totals.

    ``uplinks`` are those of the run; ``concentrators`` maps the head-end's ids to the run's numbers.
    """
    ticks: int = spool.fact("tick") or 0
    said: defaultdict[int, list[ExtraValue]] = defaultdict(list)
    for one_said in spool.said():
        said[one_said.meter].append(one_said)
    registers = dict(Register.objects.values_list("obis_code", "pk"))
    truth = _Truth(registers[ENERGY_REGISTER], registers[LOAD_PROFILE], registers, schemes_without_totals())
    counts: Counter[tuple[str, bool]] = Counter()  # by what is counted, and whether it is what the head-end has
    differing: list[str] = []
    numbers, lengths, masked, ghosts = plan.numbers, spool.lengths(), set(plan.masked), _said_by_ghosts(plan)
    per_chunk = max(1, _CHUNK_READINGS // (2 * ticks + 1))
    for first in range(0, len(numbers), per_chunk):
        chunk = numbers[first : first + per_chunk]
        ids = meter_ids(plan, chunk)
        stored, events = _stored_readings(list(ids.values()), uplinks), _stored_events(list(ids.values()))
        for done, number in enumerate(chunk, first):
            closing.look("readings of meters", done, len(numbers))
            truth.readings, truth.events = {}, {}
            scheme = SCHEMES[plan.scheme_of(number)]
            mark = scheme.number if scheme.number in _PUSH_NUMBERS else None
            if number in ghosts and ticks:
                truth.readings = {(truth.cumulative, at_s): _Reading(value, 0, mark) for at_s, value in ghosts[number]}
            elif number < len(plan.meters):
                for one in plan.intervals(load, number, ticks, lengths.get(number, ())):
                    truth.add(plan, number, one, masked=number in masked, mark=mark)
            for extra in said[number]:
                truth.add_said(extra)
            found, events_found = stored.get(ids[number], {}), events.get(ids[number], {})
            _count(counts, truth.readings, is_found=False)
            _count(counts, found, is_found=True)
            counts["meter events", False] += len(truth.events)
            counts["meter events", True] += len(events_found)
            differing += differences(f"reading of meter {number}", truth.readings, found)
            differing += differences(f"event of meter {number}", truth.events, events_found)
    closing.look("readings of meters", len(numbers), len(numbers))
    for what in dict.fromkeys(what for what, _ in sorted(counts)):
        closing.count(what, counts[what, False], counts[what, True])
    closing.name(differing)
    _compare_totals(closing, truth.totals, concentrators)


def _count(counts: Counter[tuple[str, bool]], readings: Mapping[_Place, _Reading], *, is_found: bool) -> None:
    counts["readings", is_found] += len(readings)
    for mark, number in Counter(one.mark for one in readings.values()).items():
        caveat = _PUSH_NUMBERS[mark].caveat if mark is not None else ""
        if caveat:
            counts[f"readings marked {caveat!r}", is_found] += number


def _compare_totals(closing: Closing, totals: Mapping[_Total, list[int]], concentrators: dict[int, int]) -> None:
    """Compare each total: its sum, how many meters are in it, and of how many a value came that is in no sum."""
    truth = {at: tuple(of) for at, of in totals.items()}
    rows = IntervalTotal.objects.filter(concentrator__in=list(concentrators), register__obis_code=LOAD_PROFILE)
    found = {
        _Total(concentrators[row[0]], row[1], int(row[2].timestamp())): (int(row[3]), row[4], row[5])
        for row in rows.values_list(
            "concentrator_id", "interval_minutes", "interval_start", "value_sum", "meters_counted", "meters_masked"
        )
        if row[4] or row[5]  # a total that counts no meter any more says nothing
    }
    closing.count("interval totals", len(truth), len(found))
    closing.name(differences("interval total (Wh, meters, meters without a plain value)", truth, found))


def _said_by_ghosts(plan: Plan) -> dict[int, list[tuple[int, int]]]:
    """Return the readings of ghosts, by the meter's number: Unix seconds and value."""
    lives = {Misbehaviour.OLD_COUNTER: plan.old_counter_readings, Misbehaviour.SESSION_FLOOD: plan.flood_readings}
    return {ghost.number: lives[kind]() for ghost in plan.ghosts for kind in lives if kind == ghost.kind}


def _stored_readings(meter_ids: list[int], uplinks: set[int]) -> dict[int, dict[_Place, _Reading]]:
    """Return the stored readings by meter, register and time."""
    stored: defaultdict[int, dict[_Place, _Reading]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT meter_id, register_id, extract(epoch FROM captured_at)::bigint, value, interval_minutes,
                      uplink_id, CASE WHEN scheme = ANY(%s) THEN scheme END
               FROM meters_reading WHERE meter_id = ANY(%s)""",
            [list(_PUSH_NUMBERS), meter_ids],
        )
        for meter_id, register_id, at_s, value, minutes, uplink_id, mark in cursor:
            stored[meter_id][register_id, at_s] = _Reading(value, minutes if uplink_id in uplinks else -1, mark)
    return stored


def _stored_events(meter_ids: list[int]) -> dict[int, dict[tuple[int, int], int]]:
    stored: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    rows = MeterEvent.objects.filter(meter__in=meter_ids)
    for meter_id, register_id, captured_at, value in rows.values_list(
        "meter_id", "register_id", "captured_at", "value"
    ):
        stored[meter_id][register_id, int(captured_at.timestamp())] = value
    return stored


def meter_ids(plan: Plan, numbers: list[int]) -> dict[int, int]:
    """Return the head-end's id of meters of the run, by number."""
    titles = {plan.system_title(number): number for number in numbers}
    rows = Meter.objects.filter(system_title__in=list(titles)).values_list("system_title", "pk")
    return {titles[bytes(title)]: pk for title, pk in rows}
