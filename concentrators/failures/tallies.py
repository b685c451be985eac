"""Failure tallies in pages by key, latest hour first: frames of a concentrator that failed in a kind."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db.models import Q

from concentrators.failures.kinds import FailureKind
from concentrators.models import FailureTally


class TallyKey(NamedTuple):
    """The position of a tally in the order: latest hour first, then concentrator and kind."""

    hour: datetime
    concentrator_id: int
    kind: str


class TallySelection(NamedTuple):
    """A selection of tallies: hours in [start, end), of concentrators and a kind; None is all."""

    start: datetime | None = None
    end: datetime | None = None
    concentrator_ids: Sequence[int] | None = None
    kind: FailureKind | None = None
    after: TallyKey | None = None


def tallies(selection: TallySelection, limit: int) -> tuple[list[FailureTally], TallyKey | None]:
    """Return the first tallies of a selection, and the key of the next page; one query."""
    rows = FailureTally.objects.select_related("concentrator").filter(_condition(selection))
    page = list(rows.order_by("-hour", "concentrator_id", "kind")[:limit])
    last = page[-1] if len(page) == limit else None
    return page, None if last is None else TallyKey(last.hour, last.concentrator_id, last.kind)


def count_tallies(selection: TallySelection, most: int) -> int:
    """Count the tallies of a selection, up to ``most``."""
    return FailureTally.objects.filter(_condition(selection)).order_by()[:most].count()


def _condition(selection: TallySelection) -> Q:
    condition = Q()
    if selection.start is not None:
        condition &= Q(hour__gte=selection.start)
    if selection.end is not None:
        condition &= Q(hour__lt=selection.end)
    if selection.concentrator_ids is not None:
        condition &= Q(concentrator_id__in=selection.concentrator_ids)
    if selection.kind is not None:
        condition &= Q(kind=selection.kind.value)
    if selection.after is not None:
        hour, concentrator_id, kind = selection.after
        condition &= Q(hour__lt=hour) | Q(hour=hour) & (
            Q(concentrator_id__gt=concentrator_id) | Q(concentrator_id=concentrator_id, kind__gt=kind)
        )
    return condition
