"""The closing comparison: what the run sent, and what the head-end's database has."""

import time
from collections import Counter
from collections.abc import Callable

from django.conf import settings
from django.db.models import Count, Sum

from ami_headend.core.sql import chunks
from ami_headend.core.text import counted
from concentrators.failures.kinds import FailureKind
from concentrators.models import Concentrator, FailureTally, IntegrityFailure, Uplink
from concentrators.simulator.closing_report import Closing, Look, nobody_looks
from concentrators.simulator.factory import Factory
from concentrators.simulator.mask_authorities import RunningAuthorities
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.registration import concentrator_name
from concentrators.simulator.sent import ACCEPTED, DUPLICATE
from concentrators.simulator.spool import Spool
from concentrators.simulator.truth_links import compare_links
from concentrators.simulator.truth_masked import compare_masked
from concentrators.simulator.truth_readings import compare_readings
from concentrators.simulator.truth_signed import compare_signed
from keyvault.cose.structures import split_sequence

_CHUNK_UPLINKS = 2_000
_LOOK_EVERY = 500  # failures


class StalledError(Exception):
    """The head-end stopped verifying."""


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
            lacking = counted(len(waiting), "uplink is", "uplinks are")
            raise StalledError(f"{lacking} not verified, and none was for {patience_s:.0f} s")
        open_uplinks = waiting
        tick(len(waiting))
        if waiting:
            time.sleep(0.2)


def compare(
    plan: Plan,
    load: Load,
    spool: Spool,
    factory: Factory,
    authorities: RunningAuthorities | None = None,
    look: Look = nobody_looks,
) -> Closing:
    """Compare everything that was sent with the head-end's database, frame by frame and interval by interval.

    ``authorities`` are those of a run with meters that mask; ``look`` is called often with the progress.
    """
    closing = Closing(look)
    posted = list(spool.posted())
    concentrators = _concentrator_ids(plan)
    _compare_verdicts(closing, posted)
    _compare_failures(closing, posted, concentrators)
    uplinks = {uplink for _, uplink, _ in posted}
    compare_readings(closing, plan, load, spool, uplinks, concentrators)
    if plan.signing:
        compare_signed(closing, plan, load, spool, factory)
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
    frames = done = 0
    for chunk in chunks([uplink for _, uplink, _ in posted], _CHUNK_UPLINKS):
        rows = Uplink.objects.filter(pk__in=chunk).values_list("frames", "accepted", "duplicate", "failures")
        for of_uplink, accepted, duplicate, failures in rows:
            frames += of_uplink
            found.update({ACCEPTED: accepted, DUPLICATE: duplicate, **failures})
        done += len(chunk)
        closing.look("verdicts of uplinks", done, len(posted))
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
    good, bad = _check_evidence(closing, list(concentrators), rows.total())
    closing.count("integrity failures kept with their frame", good + len(bad), good)
    closing.name(bad)


def _check_evidence(closing: Closing, concentrator_ids: list[int], expected: int) -> tuple[int, list[str]]:
    """Count the failures that have exactly the octets at that place of the uplink, and find those that do not."""
    good, bad = 0, []
    rows = IntegrityFailure.objects.filter(concentrator__in=concentrator_ids).order_by("uplink_id")
    frames: list[bytes] | None = None
    uplink_id = None
    fields = rows.only("kind", "uplink_id", "frame_index", "frame", "detail")
    for done, row in enumerate(fields.iterator(chunk_size=5_000), 1):
        if done % _LOOK_EVERY == 0 or done == expected:
            closing.look("failures with their frames", done, expected)
        if row.uplink_id != uplink_id:
            uplink_id = row.uplink_id
            body = Uplink.objects.values_list("body", flat=True).get(pk=uplink_id)
            frames = None if body is None else split_sequence(bytes(body))
        if row.detail and (frames is None or frames[row.frame_index] == bytes(row.frame)):
            good += 1
        else:
            bad.append(f"failure {row.pk} ({row.kind}): its frame is not frame {row.frame_index} of uplink {uplink_id}")
    return good, bad


def _concentrator_ids(plan: Plan) -> dict[int, int]:
    """Return the run's number of each concentrator, by the head-end's id."""
    names = {concentrator_name(plan, number): number for number in range(plan.concentrators)}
    rows = Concentrator.objects.filter(name__in=list(names)).values_list("name", "pk")
    return {pk: names[name] for name, pk in rows}
