"""The closing comparison: what the run sent, and what the head-end's database has."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Count, Sum

from ami_headend.core.sql import chunks
from concentrators.failures.kinds import FailureKind
from concentrators.models import Concentrator, FailureTally, IntegrityFailure, IntervalTotal, Uplink
from concentrators.simulator.closing_report import Closing, differences
from concentrators.simulator.factory import Factory
from concentrators.simulator.mask_authorities import RunningAuthorities
from concentrators.simulator.meter import ENERGY_REGISTER
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.registration import concentrator_name
from concentrators.simulator.sent import ACCEPTED, DUPLICATE
from concentrators.simulator.spool import ExtraValue, Spool
from concentrators.simulator.truth_links import compare_links
from concentrators.simulator.truth_masked import compare_masked
from keyvault.cose.structures import split_sequence
from meters.models import Meter, MeterEvent, Register
from meters.readings.obis import LOAD_PROFILE

_CHUNK_READINGS = 400_000
_CHUNK_UPLINKS = 2_000


class StalledError(Exception):
    """The head-end stopped verifying."""


class _Total(NamedTuple):
    concentrator: int
    interval_minutes: int
    start_s: int


def wait_until_verified(spool: Spool, patience_s: float, tick: Callable[[int], None], stop: Callable[[], bool]) -> None:
    """Wait for the verdicts of all uplinks with a receipt; ``tick`` gets the number of uplinks that are left.

    StalledError if nothing was verified for ``patience_s``. Ends early if ``stop`` returns true.
    """
    open_uplinks = {uplink for _, uplink, _ in spool.posted()}
    moved_at = time.monotonic()
    while open_uplinks and not stop():
        waiting: set[int] = set()
        for chunk in chunks(sorted(open_uplinks), _CHUNK_UPLINKS):
            waiting.update(Uplink.objects.filter(pk__in=chunk, verified_at=None).values_list("pk", flat=True))
        if len(waiting) < len(open_uplinks):
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > patience_s:
            raise StalledError(f"{len(waiting)} uplinks are not verified, and none was for {patience_s:.0f} s")
        open_uplinks = waiting
        tick(len(waiting))
        if waiting:
            time.sleep(0.2)


def compare(
    plan: Plan, load: Load, spool: Spool, factory: Factory, authorities: RunningAuthorities | None = None
) -> Closing:
    """Compare everything that was sent with the head-end's database, frame by frame and interval by interval.

    ``authorities`` are those of a run with meters that mask.
    """
    closing = Closing()
    posted = list(spool.posted())
    concentrators = _concentrator_ids(plan)
    _compare_verdicts(closing, posted)
    _compare_failures(closing, posted, concentrators)
    uplinks = {uplink for _, uplink, _ in posted}
    totals = _compare_readings(closing, plan, load, spool, uplinks)
    _compare_totals(closing, totals, concentrators)
    if plan.hold_keys:
        compare_links(closing, plan, load, spool, concentrators)
    if authorities is not None:
        compare_masked(closing, plan, load, spool, factory, authorities)
    return closing


def _compare_verdicts(closing: Closing, posted: list[tuple[int, int, dict[str, int]]]) -> None:
    expected: Counter[str] = Counter()
    for _, _, verdicts in posted:
        expected.update(verdicts)
    found: Counter[str] = Counter()
    frames = 0
    for chunk in chunks([uplink for _, uplink, _ in posted], _CHUNK_UPLINKS):
        rows = Uplink.objects.filter(pk__in=chunk).values_list("frames", "accepted", "duplicate", "failures")
        for of_uplink, accepted, duplicate, failures in rows:
            frames += of_uplink
            found.update({ACCEPTED: accepted, DUPLICATE: duplicate, **failures})
    closing.count("frames sent", expected.total(), frames)
    kinds = [kind.value for kind in FailureKind if kind in expected or kind in found]
    for verdict in [ACCEPTED, DUPLICATE, *kinds]:
        closing.count(f"  {verdict}", expected[verdict], found[verdict])


def _compare_failures(
    closing: Closing, posted: list[tuple[int, int, dict[str, int]]], concentrators: dict[int, int]
) -> None:
    """Compare tallies, stored failures (capped per hour), and their evidence."""
    expected: Counter[tuple[int, str]] = Counter()
    for number, _, verdicts in posted:
        expected.update({(number, v): count for v, count in verdicts.items() if v not in (ACCEPTED, DUPLICATE)})
    mine = {"concentrator__in": list(concentrators)}
    tallies = Counter(
        {
            (concentrators[row["concentrator"]], row["kind"]): row["sum"]
            for row in FailureTally.objects.filter(**mine).values("concentrator", "kind").annotate(sum=Sum("failures"))
        }
    )
    rows = Counter(
        {
            (concentrators[row["concentrator"]], row["kind"]): row["count"]
            for row in IntegrityFailure.objects.filter(**mine)
            .order_by()
            .values("concentrator", "kind")
            .annotate(count=Count("pk"))
        }
    )
    closing.count("integrity failures counted", expected.total(), tallies.total())
    differing = []
    for number, kind in sorted(expected | tallies | rows):
        sent, kept = expected[number, kind], rows[number, kind]
        if tallies[number, kind] != sent or not min(sent, settings.FAILURE_ROWS_PER_HOUR) <= kept <= sent:
            differing.append(
                f"{kind} at concentrator {number + 1}: sent {sent}, counted {tallies[number, kind]}, rows kept {kept}"
            )
    closing.name(differing)
    good, bad = _check_evidence(list(concentrators))
    closing.count("integrity failures kept with their frame", good + len(bad), good)
    closing.name(bad)


def _check_evidence(concentrator_ids: list[int]) -> tuple[int, list[str]]:
    """Count the failures that have exactly the octets at that place of the uplink, and find those that do not."""
    good, bad = 0, []
    rows = IntegrityFailure.objects.filter(concentrator__in=concentrator_ids).order_by("uplink_id")
    frames: list[bytes] | None = None
    uplink_id = None
    for row in rows.only("kind", "uplink_id", "frame_index", "frame", "detail").iterator(chunk_size=5_000):
        if row.uplink_id != uplink_id:
            uplink_id = row.uplink_id
            body = Uplink.objects.values_list("body", flat=True).get(pk=uplink_id)
            frames = None if body is None else split_sequence(bytes(body))
        if row.detail and (frames is None or frames[row.frame_index] == bytes(row.frame)):
            good += 1
        else:
            bad.append(f"failure {row.pk} ({row.kind}): its frame is not frame {row.frame_index} of uplink {uplink_id}")
    return good, bad


def _said_by_ghosts(plan: Plan) -> dict[int, list[tuple[int, int]]]:
    """Return the readings of ghosts, by the meter's number: Unix seconds and value."""
    lives = {Misbehaviour.OLD_COUNTER: plan.old_counter_readings, Misbehaviour.SESSION_FLOOD: plan.flood_readings}
    return {ghost.number: lives[kind]() for ghost in plan.ghosts for kind in lives if kind == ghost.kind}


def _compare_readings(
    closing: Closing, plan: Plan, load: Load, spool: Spool, uplinks: set[int]
) -> dict[_Total, tuple[int, int]]:
    """Compare every reading and event of every meter; return the true interval totals."""
    ticks: int = spool.fact("tick") or 0
    said: defaultdict[int, list[ExtraValue]] = defaultdict(list)
    for one_said in spool.said():
        said[one_said.meter].append(one_said)
    registers = dict(Register.objects.values_list("obis_code", "pk"))
    cumulative, interval = registers[ENERGY_REGISTER], registers[LOAD_PROFILE]
    totals: defaultdict[_Total, list[int]] = defaultdict(lambda: [0, 0])
    expected_rows = found_rows = expected_events = found_events = 0
    differing: list[str] = []
    numbers, lengths, masked, ghosts = plan.numbers, spool.lengths(), set(plan.masked), _said_by_ghosts(plan)
    per_chunk = max(1, _CHUNK_READINGS // (2 * ticks + 1))
    for first in range(0, len(numbers), per_chunk):
        chunk = numbers[first : first + per_chunk]
        ids = _meter_ids(plan, chunk)
        stored = _stored_readings(list(ids.values()), uplinks)
        events = _stored_events(list(ids.values()))
        for number in chunk:
            truth: dict[tuple[int, int], tuple[int, int]] = {}
            truth_events: dict[tuple[int, int], int] = {}
            if number in ghosts and ticks:
                truth = {(cumulative, at_s): (value, 0) for at_s, value in ghosts[number]}
            elif number < len(plan.meters):
                for one in plan.intervals(load, number, ticks, lengths.get(number, ())):
                    if number not in masked:
                        truth[cumulative, one.start_s] = (one.register_wh, 0)
                        truth[interval, one.start_s] = (one.energy_wh, one.minutes)
                        total = totals[_Total(plan.assigned_to(number, one.start_s), one.minutes, one.start_s)]
                        total[0] += one.energy_wh
                        total[1] += 1
                    event = plan.event_in(number, one)
                    if event is not None:
                        truth_events[registers[event.register], event.captured_at_s] = event.code
            for _, register, at_s, value in said[number]:
                if register == ENERGY_REGISTER:
                    truth[cumulative, at_s] = (value, 0)
                else:
                    truth_events[registers[register], at_s] = value
            found, events_found = stored.get(ids[number], {}), events.get(ids[number], {})
            expected_rows, found_rows = expected_rows + len(truth), found_rows + len(found)
            expected_events, found_events = expected_events + len(truth_events), found_events + len(events_found)
            differing += differences(f"reading of meter {number}", truth, found)
            differing += differences(f"event of meter {number}", truth_events, events_found)
    closing.count("readings", expected_rows, found_rows)
    closing.count("meter events", expected_events, found_events)
    closing.name(differing)
    return {total: (energy, meters) for total, (energy, meters) in totals.items()}


def _compare_totals(closing: Closing, truth: dict[_Total, tuple[int, int]], concentrators: dict[int, int]) -> None:
    rows = IntervalTotal.objects.filter(concentrator__in=list(concentrators), register__obis_code=LOAD_PROFILE)
    found = {
        _Total(concentrators[row[0]], row[1], int(row[2].timestamp())): (int(row[3]), row[4])
        for row in rows.values_list(
            "concentrator_id", "interval_minutes", "interval_start", "value_sum", "meters_counted"
        )
        if row[4]  # a total that counts no meter any more says nothing
    }
    closing.count("interval totals", len(truth), len(found))
    closing.name(differences("interval total (Wh, meters)", truth, found))


def _stored_readings(meter_ids: list[int], uplinks: set[int]) -> dict[int, dict[tuple[int, int], tuple[int, int]]]:
    """Return readings by meter, register and time; one that came in no uplink of ours has -1 as its interval."""
    stored: defaultdict[int, dict[tuple[int, int], tuple[int, int]]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT meter_id, register_id, extract(epoch FROM captured_at)::bigint, value, interval_minutes, uplink_id"
            " FROM meters_reading WHERE meter_id = ANY(%s)",
            [meter_ids],
        )
        for meter_id, register_id, at_s, value, minutes, uplink_id in cursor:
            stored[meter_id][register_id, at_s] = (value, minutes if uplink_id in uplinks else -1)
    return stored


def _stored_events(meter_ids: list[int]) -> dict[int, dict[tuple[int, int], int]]:
    stored: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    rows = MeterEvent.objects.filter(meter__in=meter_ids)
    for meter_id, register_id, captured_at, value in rows.values_list(
        "meter_id", "register_id", "captured_at", "value"
    ):
        stored[meter_id][register_id, int(captured_at.timestamp())] = value
    return stored


def _meter_ids(plan: Plan, numbers: list[int]) -> dict[int, int]:
    titles = {plan.system_title(number): number for number in numbers}
    rows = Meter.objects.filter(system_title__in=list(titles)).values_list("system_title", "pk")
    return {titles[bytes(title)]: pk for title, pk in rows}


def _concentrator_ids(plan: Plan) -> dict[int, int]:
    """Return the run's number of each concentrator, by the head-end's id."""
    names = {concentrator_name(plan, number): number for number in range(plan.concentrators)}
    rows = Concentrator.objects.filter(name__in=list(names)).values_list("name", "pk")
    return {pk: names[name] for name, pk in rows}
