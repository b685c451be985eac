"""The closing comparison of concentrators that hold keys: frames that they dropped, and sums that they reported."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from concentrators.models import HopFailure, ReportedSum
from concentrators.simulator.closing_report import Closing, differences
from concentrators.simulator.hop_concentrator import SumPlace
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.spool import Spool
from concentrators.totals import reported_sums
from meters.readings.obis import LOAD_PROFILE

_Sums = Mapping[tuple[int, SumPlace], tuple[int, int]]


def compare_links(closing: Closing, plan: Plan, load: Load, spool: Spool, concentrators: dict[int, int]) -> None:
    """Compare what went over the local links; ``concentrators`` maps the head-end's ids to the run's numbers."""
    store = LinkStore(spool)
    _compare_dropped(closing, store, concentrators)
    now, sums_said = timezone.now(), store.sums()
    closing.look("sums that were said", 0, len(sums_said))
    reported_sums.compare(now)
    closing.look("sums that were said", len(sums_said), len(sums_said))
    kept_since_s = (now - timedelta(days=settings.FAILURE_KEEP_DAYS - 1)).timestamp()  # older sums are dropped
    said, true = (
        {at: sums for at, sums in of.items() if at[1].start_s >= kept_since_s}
        for of in (sums_said, _true_sums(plan, load, spool))
    )
    _compare_sums(closing, said, true, _found_sums(concentrators, kept_since_s))


def _compare_dropped(closing: Closing, store: LinkStore, concentrators: dict[int, int]) -> None:
    """Compare dropped frames: the head-end knows of them only from the concentrators."""
    truth = store.dropped()
    rows = HopFailure.objects.filter(concentrator__in=list(concentrators)).values("concentrator", "reason")
    found = {(concentrators[row["concentrator"]], row["reason"]): row["n"] for row in rows.annotate(n=Sum("frames"))}
    for reason in sorted({reason for _, reason in truth | found}):
        expected, there = (sum(n for (_, of), n in one.items() if of == reason) for one in (truth, found))
        closing.count(f"dropped on the local link: {reason}", expected, there)
    closing.name(differences("frames dropped at (concentrator, reason)", truth, found))


def _found_sums(concentrators: dict[int, int], since_s: float) -> tuple[_Sums, set[tuple[int, SumPlace]]]:
    """Return the sums that the head-end has from a time on, and the places where its own sums differ."""
    found, differing = {}, set()
    rows = ReportedSum.objects.filter(concentrator__in=list(concentrators)).select_related("register")
    for row in rows.filter(interval_start__gte=datetime.fromtimestamp(since_s, UTC)).iterator():
        place = SumPlace(row.register.obis_code, row.interval_minutes, int(row.interval_start.timestamp()))
        at = concentrators[row.concentrator_id], place
        found[at] = row.value_sum, row.meters_counted
        if row.differs_since is not None:
            differing.add(at)
    return found, differing


def _compare_sums(closing: Closing, said: _Sums, true: _Sums, stored: tuple[_Sums, set[tuple[int, SumPlace]]]) -> None:
    """Compare reported sums: they differ from the head-end's own where a concentrator lied, and nowhere else."""
    found, differing = stored
    lied = {at for at, sums in said.items() if true.get(at) != sums}
    closing.count("sums said", len(said), len(found))
    closing.count("sums that do not agree", len(lied), len(differing))
    closing.name(differences("sum said (value, meters) at", said, found))
    closing.name([f"sum at {at}: agreement is not what it should be" for at in sorted(lied ^ differing)])


def _true_sums(plan: Plan, load: Load, spool: Spool) -> _Sums:
    """Return the true sums of meters that concentrators can read, each for the concentrator that it was assigned to."""
    ticks, lengths = spool.fact("tick") or 0, spool.lengths()
    sums: defaultdict[tuple[int, SumPlace], Counter[str]] = defaultdict(Counter)
    for number in range(len(plan.meters)):
        if plan.scheme_of(number) in ("hop", "mac"):
            for one in plan.intervals(load, number, ticks, lengths.get(number, ())):
                place = SumPlace(LOAD_PROFILE, one.minutes, one.start_s)
                sums[plan.assigned_to(number, one.start_s), place].update(value=one.energy_wh, meters=1)
    return {at: (of["value"], of["meters"]) for at, of in sums.items()}
