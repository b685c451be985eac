"""Sets of masked values that are added up together: they are formed, answered by mask authorities, and closed.

A value never changes its set, because an authority answers for a meter, register and start only once. So a set is
formed of all values for a register and start, when no more have come for some time. Later values wait until there
are ten.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.db import connection, transaction

from ami_headend.core import batches, locks
from ami_headend.core.sql import select
from ami_headend.core.text import counted
from concentrators.models.masked import MaskedSet, MaskQuestion
from keyvault.masking.masks import MODULUS, Cell, is_plausible, unmasked
from keyvault.masking.messages import FEWEST, MOST, split_titles
from keyvault.masking.pinned import PinnedMaskAuthority
from meters.readings.partitions import retention_start

FEWEST_AUTHORITIES = 2  # one alone could unmask every value that it can read
_SETS = 200  # formed by one statement
_NO_BOUND = 2**63 - 1


class OpenQuestion(NamedTuple):
    """A question that an authority has not answered yet: the cell, and the titles of the set in order."""

    id: int
    authority_id: int
    cell: Cell
    titles: tuple[bytes, ...]


def groups_of(authorities: Sequence[PinnedMaskAuthority]) -> dict[str, list[PinnedMaskAuthority]]:
    """Return the authorities of each mask group, without groups that have too few."""
    groups: dict[str, list[PinnedMaskAuthority]] = {}
    for authority in authorities:
        groups.setdefault(authority.mask_group, []).append(authority)
    return {name: some for name, some in groups.items() if len(some) >= FEWEST_AUTHORITIES}


def form(groups: Mapping[str, Sequence[PinnedMaskAuthority]], settle: timedelta, now: datetime) -> int:
    """Form sets of values whose register and start got no value for ``settle``; return how many sets.

    Only values of meters that all authorities of their group have accepted. A fixed number of statements.
    """
    names = list(groups)
    with transaction.atomic(), connection.cursor() as cursor:
        locks.take(locks.MASKED_SETS)
        cursor.execute(
            _FORM,
            {
                "names": names,
                "numbers": [len(groups[name]) for name in names],
                "ids": [one.id for some in groups.values() for one in some],
                "earliest": retention_start(now),
                "settled": now - settle,
                "now": now,
                "fewest": FEWEST,
                "most": MOST,
                "modulus": MODULUS,
                "limit": _SETS,
            },
        )
        made = cursor.fetchall()
        MaskQuestion.objects.bulk_create(
            MaskQuestion(set_id=set_id, authority_id=authority.id, due_at=now)
            for set_id, name in made
            for authority in groups[name]
        )
    return len(made)


_FORM = """
WITH groups AS (
    SELECT * FROM unnest(%(names)s::text[], %(numbers)s::int[]) AS g(mask_group, authorities)
), taken AS (
    SELECT meter_id, count(*) AS authorities FROM concentrators_maskedmeter
    WHERE taken_at IS NOT NULL AND authority_id = ANY(%(ids)s::bigint[]) GROUP BY meter_id
), ready AS (
    SELECT r.register_id, r.captured_at, r.interval_minutes, m.mask_group, m.system_title, r.meter_id, r.value,
           r.received_at
    FROM meters_maskedreading r
    JOIN meters_meter m ON m.id = r.meter_id
    JOIN groups g ON g.mask_group = m.mask_group
    JOIN taken t ON t.meter_id = m.id AND t.authorities = g.authorities
    WHERE r.set_id IS NULL AND r.captured_at >= %(earliest)s
), placed AS (
    SELECT ready.*, count(*) OVER place AS meters, max(received_at) OVER place AS last_received_at FROM ready
    WINDOW place AS (PARTITION BY captured_at, register_id, interval_minutes, mask_group)
), numbered AS (
    SELECT placed.*, dense_rank() OVER (ORDER BY captured_at, register_id, interval_minutes, mask_group) AS number
    FROM placed WHERE meters >= %(fewest)s AND last_received_at <= %(settled)s
), parts AS MATERIALIZED (
    SELECT numbered.*, ntile(ceil(meters / %(most)s::numeric)::int) OVER (
        PARTITION BY captured_at, register_id, interval_minutes, mask_group ORDER BY system_title) AS part
    FROM numbered WHERE number <= %(limit)s
), made AS (
    INSERT INTO concentrators_maskedset (register_id, interval_start, interval_minutes, mask_group, part, titles,
                                         meters, masked_sum, refusal, made_at)
    SELECT register_id, captured_at, interval_minutes, mask_group, part,
           string_agg(system_title, ''::bytea ORDER BY system_title), count(*),
           mod(mod(sum(value), %(modulus)s) + %(modulus)s, %(modulus)s), '', %(now)s
    FROM parts GROUP BY 1, 2, 3, 4, 5
    RETURNING id, register_id, interval_start, interval_minutes, mask_group, part
), filled AS (
    UPDATE meters_maskedreading r SET set_id = made.id
    FROM parts p JOIN made ON made.register_id = p.register_id AND made.interval_start = p.captured_at
         AND made.interval_minutes = p.interval_minutes AND made.mask_group = p.mask_group AND made.part = p.part
    WHERE r.captured_at = p.captured_at AND r.meter_id = p.meter_id AND r.register_id = p.register_id
)
SELECT id, mask_group FROM made
"""


def open_questions(authority_ids: Collection[int], now: datetime, limit: int) -> list[OpenQuestion]:
    """Return the questions to authorities (by id) that are due, oldest first; one query."""
    rows = select(
        """SELECT q.id, q.authority_id, g.obis_code, extract(epoch FROM s.interval_start)::bigint, s.interval_minutes,
                  s.titles
           FROM concentrators_maskquestion q JOIN concentrators_maskedset s ON s.id = q.set_id
           JOIN meters_register g ON g.id = s.register_id
           WHERE q.answer IS NULL AND s.closed_at IS NULL AND q.due_at <= %s AND q.authority_id = ANY(%s)
           ORDER BY q.due_at, q.id LIMIT %s""",
        [now, list(authority_ids), limit],
    )
    return [OpenQuestion(row[0], row[1], Cell(row[2], row[3], row[4]), split_titles(bytes(row[5]))) for row in rows]


def answered(question_id: int, octets: bytes, mask_sum: int, now: datetime) -> None:
    """Store the signed answer of an authority, unless there is one already."""
    MaskQuestion.objects.filter(pk=question_id, answer=None).update(
        answer=octets, mask_sum=mask_sum, answered_at=now, refusal="", error="", failing_since=None
    )


def close(now: datetime) -> int:
    """Close the sets that all authorities have answered, each with its total or why it has none; return how many."""
    closed = 0
    while True:
        with transaction.atomic():
            locks.take(locks.MASKED_SETS)
            rows = select(
                """SELECT s.id, s.masked_sum, s.meters, coalesce(g.maximum, %s), array_agg(q.mask_sum)
                   FROM concentrators_maskedset s JOIN meters_register g ON g.id = s.register_id
                   JOIN concentrators_maskquestion q ON q.set_id = s.id
                   WHERE s.closed_at IS NULL GROUP BY s.id, g.id HAVING bool_and(q.answer IS NOT NULL)
                   ORDER BY s.id LIMIT %s""",
                [_NO_BOUND, _SETS],
            )
            if not rows:
                return closed
            found = [MaskedSet(pk=row[0], closed_at=now, **_closing(*row[1:])) for row in rows]
            MaskedSet.objects.bulk_update(found, ["total", "refusal", "closed_at"])
            closed += len(found)


def _closing(masked_sum: Decimal, meters: int, maximum: int, mask_sums: Sequence[Decimal]) -> dict[str, int | str]:
    total = unmasked(int(masked_sum), map(int, mask_sums))
    if is_plausible(total, meters, maximum):
        return {"total": total}
    return {
        "refusal": f"out of range: {counted(meters, 'meter')} cannot have a total of {total}, so an answer is wrong"
    }


def refuse(question_id: int, reason: str, now: datetime) -> None:
    """Close a set that an authority will never answer for; its values are in no total."""
    set_of = MaskQuestion.objects.filter(pk=question_id).values("set_id")
    MaskedSet.objects.filter(pk__in=set_of, closed_at=None).update(refusal=reason[:250], closed_at=now)


def delete_old(before: datetime) -> int:
    """Delete the sets of intervals that began before a time, with their answers; how many."""
    return batches.delete(MaskedSet.objects.filter(interval_start__lt=before).order_by("interval_start", "pk"))
