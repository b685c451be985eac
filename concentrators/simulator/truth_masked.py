"""The closing comparison of meters that mask: each masked value, and the masked totals."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from concentrators.models import MaskedSet, MaskQuestion
from concentrators.simulator.closing_report import Closing, differences
from concentrators.simulator.factory import Factory
from concentrators.simulator.mask_authorities import RunningAuthorities
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.spool import Spool
from concentrators.totals import mask_collector
from keyvault.masking.messages import FEWEST, split_titles
from meters.readings.obis import LOAD_PROFILE

_AT_ONCE = timedelta(0)
_Energy = Mapping[tuple[int, int], int]  # Wh by meter number and start


def compare_masked(
    closing: Closing, plan: Plan, load: Load, spool: Spool, factory: Factory, authorities: RunningAuthorities
) -> None:
    """Compare masked values and their totals. It collects all totals first, because no more values come."""
    energy, lengths = {}, spool.lengths()
    for number in plan.masked:
        if number < len(plan.meters):
            for one in plan.intervals(load, number, spool.fact("tick") or 0, lengths.get(number, ())):
                energy[number, one.start_s] = one.energy_wh
    closing.look("masked values", 0, len(energy))
    _compare_values(closing, plan, factory, energy)
    closing.look("masked values", len(energy), len(energy))
    if plan.rates.get(Misbehaviour.AUTHORITY_AWAY):
        _compare_away(closing, plan, authorities)
    _collect(closing, plan)
    _compare_totals(closing, plan, energy)
    if plan.rates.get(Misbehaviour.AUTHORITY_RESTORED):
        _compare_restored(closing, plan, authorities)


def _compare_values(closing: Closing, plan: Plan, factory: Factory, energy: _Energy) -> None:
    """Check that each value is stored once, masked as by its meter, and that no plain value of them is stored."""
    masks = {number: factory.masks(number) for number in plan.masked}
    truth = {at: of.value(at[1], wh) for at, wh in energy.items() if (of := masks[at[0]]) is not None}
    numbers = {plan.system_title(number): number for number in plan.masked}
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.system_title, extract(epoch FROM r.captured_at)::bigint, r.value FROM meters_maskedreading r
               JOIN meters_meter m ON m.id = r.meter_id WHERE m.system_title = ANY(%s::bytea[])""",
            [list(numbers)],
        )
        found = {(numbers[bytes(title)], at_s): value % 2**64 for title, at_s, value in cursor.fetchall()}
        cursor.execute(
            """SELECT count(*) FROM meters_reading r JOIN meters_meter m ON m.id = r.meter_id
               WHERE m.system_title = ANY(%s::bytea[])""",
            [list(numbers)],
        )
        plain = cursor.fetchone()[0]
    closing.count("masked values", len(truth), len(found))
    closing.name(differences("masked value of (meter, start)", truth, found))
    closing.count("plain readings of meters that mask", 0, plain)


def _compare_away(closing: Closing, plan: Plan, authorities: RunningAuthorities) -> None:
    """Check that there are no new totals while one authority is away, and the answers of the other wait."""
    last = len(authorities.all) - 1
    before = _sets(plan).exclude(closed_at=None).count()
    authorities.stop(last)
    mask_collector.collect(timezone.now(), _AT_ONCE)
    closing.count("masked totals while an authority is away", before, _sets(plan).exclude(closed_at=None).count())
    authorities.start(last)


def _collect(closing: Closing, plan: Plan) -> None:
    while True:
        MaskQuestion.objects.filter(set__in=_sets(plan), answer=None).update(due_at=timezone.now())
        done = mask_collector.collect(timezone.now(), _AT_ONCE)
        closing.look("masked totals", _sets(plan).exclude(closed_at=None).count(), _sets(plan).count())
        if not (done.formed or done.answers or done.closed):
            return


def _compare_totals(closing: Closing, plan: Plan, energy: _Energy) -> None:
    """Check that every value is in one set, if there were ten, and that each total is what the set's meters used."""
    numbers = {plan.system_title(number): number for number in plan.masked}
    left: defaultdict[int, int] = defaultdict(int)
    for _, start_s in energy:
        left[start_s] += 1
    truth, found = {}, {}
    for one in _sets(plan).select_related("register"):
        start_s = int(one.interval_start.timestamp())
        of = [numbers[title] for title in split_titles(bytes(one.titles))]
        left[start_s] -= len(of)
        truth[one.pk, start_s] = sum(energy[number, start_s] for number in of)
        found[one.pk, start_s] = -1 if one.total is None or one.register.obis_code != LOAD_PROFILE else int(one.total)
    closing.count("masked totals", len(truth), sum(total >= 0 for total in found.values()))
    closing.name(differences("masked total (set, start)", truth, found))
    closing.count(
        "masked values that could be in a total and are in none", 0, sum(n for n in left.values() if n >= FEWEST)
    )


def _compare_restored(closing: Closing, plan: Plan, authorities: RunningAuthorities) -> None:
    """Check that a restored authority does not serve until it is told, and then answers for no earlier start."""
    one = _sets(plan).exclude(total=None).first()
    if one is None:
        return  # it has answered nothing that it could forget
    said = authorities.restore(0)
    closing.count("restored authorities that serve unasked", 0, int("restored" not in said))
    url = authorities.all[0].url
    question = one.questions.select_related("authority").get(authority__url=url)
    kept = bytes(question.answer or b""), question.mask_sum
    fields = {"answer": None, "mask_sum": None, "due_at": timezone.now()}
    MaskQuestion.objects.filter(pk=question.pk).update(**fields)
    MaskedSet.objects.filter(pk=one.pk).update(total=None, closed_at=None)
    mask_collector.collect(timezone.now(), _AT_ONCE)
    question.refresh_from_db()
    closing.count("answers of a restored authority for starts before", 0, int(question.answer is not None))
    closing.name([] if question.refusal == "before_state" else [f"a restored authority says {question.refusal!r}"])
    MaskQuestion.objects.filter(pk=question.pk).update(answer=kept[0], mask_sum=kept[1], refusal="", error="")
    MaskedSet.objects.filter(pk=one.pk).update(total=one.total, closed_at=one.closed_at, refusal="")


def _sets(plan: Plan) -> QuerySet[MaskedSet]:
    return MaskedSet.objects.filter(mask_group=plan.mask_group).order_by("pk")
