"""Groups of meters, places and concentrators: how they are written, found, and who is in them.

The one answer to "which meters are in these groups?" is ``meters_meteringroup``: meters that somebody put there, and
those whose present place or concentrator is in the group (docs/adr/0043-groups.md). ``of_meters`` and
``meter_condition`` ask it.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from django.db import connection
from django.db.models import Count, Q, QuerySet, Subquery

from ami_headend.core import keyset, names
from ami_headend.core.names import Alike, UnreadableNameError, alike
from ami_headend.core.sql import execute, int_array
from meters.group_models import TAG, FleetGroup, MeterInGroup, PlaceInGroup, Via
from meters.models import Meter
from meters.registry.lookup import RegistryError
from meters.registry.search import Condition

SEPARATOR = "|"  # between groups in a cell or a filter
NAMED_MAX = 50  # groups in one cell, filter or request
_KIND_MAX, _NAME_MAX = 40, 120


class GroupError(RegistryError):
    """A group that cannot be so, or that does not exist: the caller's mistake, named in the message."""


class OtherGroupError(GroupError):
    """A group that a limited token does not open, whether or not it exists."""


class GroupName(NamedTuple):
    """Kind and name of a group."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == TAG else f"{self.kind}:{self.name}"

    @property
    def key(self) -> tuple[str, str]:
        """What the names of two groups are compared by."""
        return alike(self.kind), alike(self.name)


def parse(text: str) -> GroupName:
    """Parse ``district:North``, or the one word of a tag; GroupError for another form."""
    try:
        written = names.check(text)
    except UnreadableNameError as error:
        raise GroupError(f"group {ascii(text)[:80]}: {error}") from None
    kind, colon, name = written.partition(":")
    kind, name = (kind.strip(), name.strip()) if colon else (TAG, kind.strip())
    if not kind or not name:
        raise GroupError(f"group {written[:80]!r} is not kind:name (as in district:North), or the word of a tag")
    if len(kind) > _KIND_MAX or len(name) > _NAME_MAX:
        raise GroupError(
            f"group {written[:40]!r} is too long: a kind has up to {_KIND_MAX} characters, a name {_NAME_MAX}"
        )
    if SEPARATOR in written or (alike(kind) == TAG and ":" in name):
        raise GroupError(f"group {written[:80]!r}: a name holds no {SEPARATOR}, and a tag no colon")
    return GroupName(TAG if alike(kind) == TAG else kind, name)


def parse_all(text: str, kind: str = "") -> list[GroupName]:
    """Parse groups that are separated by |, once each; of a ``kind``, each is a name alone. GroupError."""
    parts = [part for part in text.split(SEPARATOR) if part.strip()]
    if len(parts) > NAMED_MAX:
        raise GroupError(f"more than {NAMED_MAX} groups are named")
    parsed = [parse(f"{kind}:{part}" if kind else part) for part in parts]
    return list({one.key: one for one in parsed}.values())


def named(wanted: Collection[GroupName]) -> dict[tuple[str, str], FleetGroup]:
    """Return those that exist, by the key of their name. One query."""
    if not wanted:
        return {}
    kinds, known = {one.key[0] for one in wanted}, {one.key for one in wanted}
    rows = FleetGroup.objects.annotate(kind_alike=Alike("kind"), name_alike=Alike("name")).filter(
        kind_alike__in=kinds, name_alike__in={name for _, name in known}
    )
    found = {(row.kind_alike, row.name_alike): row for row in rows}
    return {key: row for key, row in found.items() if key in known}


def find(texts: Iterable[str], among: Collection[int] | None = None) -> list[FleetGroup]:
    """Return the groups of these names, once each. One query.

    GroupError names the first that does not exist; OtherGroupError the first that is not ``among`` some, if any.
    """
    wanted = [parse(text) for text in texts]
    found = named(wanted)
    for one in wanted:
        if among is not None and (one.key not in found or found[one.key].pk not in among):
            raise OtherGroupError(f"it is not limited to {one}")
        if one.key not in found:
            raise GroupError(f"there is no {'tag' if one.kind == TAG else 'group'} {one}")
    return list({found[one.key].pk: found[one.key] for one in wanted}.values())


def ensure(wanted: Collection[GroupName]) -> dict[tuple[str, str], FleetGroup]:
    """Return the groups by the key of their name, and make those that are new. At most three queries."""
    found = named(wanted)
    if new := {one.key: FleetGroup(kind=one.kind, name=one.name) for one in wanted if one.key not in found}:
        FleetGroup.objects.bulk_create(new.values(), ignore_conflicts=True)
        found = named(wanted)
    return found


def beginning(term: str) -> QuerySet[FleetGroup]:
    """Return the groups whose name, or kind and name as written, begins with a term; ordered. Reads all names."""
    kind, _, name = alike(term).partition(":")
    rows = FleetGroup.objects.annotate(kind_alike=Alike("kind"), name_alike=Alike("name"))
    found = (
        rows.filter(kind_alike=kind.strip(), name_alike__startswith=name.strip())
        if name
        else rows.filter(Q(name_alike__startswith=kind) | Q(kind_alike__startswith=kind))
    )
    return found.order_by("kind", "name")


def of_meters(group_ids: Collection[int], column: str = "meter") -> Q:
    """Return a condition for rows whose meter is in any of the groups; ``column`` names it, ``pk`` of meters."""
    return Q(**{f"{column}__in": MeterInGroup.objects.filter(group__in=list(group_ids)).values("meter_id")})


def of_titles(group_ids: Collection[int], column: str = "system_title") -> Q:
    """Return a condition for rows that name their meter by system title, of meters in any of the groups."""
    return Q(**{f"{column}__in": Meter.objects.filter(of_meters(group_ids, "pk")).values("system_title")})


def meters_among(group_ids: Collection[int], meter_ids: Collection[int]) -> list[int]:
    """Return which of some meters are in any of the groups. One query."""
    found = MeterInGroup.objects.filter(group__in=list(group_ids), meter__in=list(meter_ids))
    return list(found.values_list("meter_id", flat=True).distinct())


def meter_condition(group_ids: Iterable[int], column: str) -> Condition:
    """Return SQL that is true where the column has the id of a meter in any of the groups, and its parameters."""
    return (
        f"{column} IN (SELECT g.meter_id FROM meters_meteringroup g WHERE g.group_id = ANY(%s::int[]))",
        [int_array(group_ids)],
    )


# The same for statements with named values: ``groups`` is a text of an array.
OF_GROUPS = "{column} IN (SELECT g.meter_id FROM meters_meteringroup g WHERE g.group_id = ANY(%(groups)s::int[]))"


def in_order(group_ids: Sequence[int]) -> Condition:
    """Return SQL of the meters of any of the groups (``meter_id``), each once and in order, and its parameters.

    Of one group they come straight from its index, so that the first of them cost nothing, however many there are.
    """
    of = "group_id = %s" if len(group_ids) == 1 else "group_id = ANY(%s)"
    rows = f"(SELECT DISTINCT meter_id FROM meters_meteringroup WHERE {of} ORDER BY meter_id)"
    return rows, [group_ids[0] if len(group_ids) == 1 else list(group_ids)]


def one_of(group_ids: Iterable[int] | None, column: str = "meter_id") -> keyset.Condition:
    """The same for a page in order of a key (``core.keyset``); None does not restrict it."""
    text, params = meter_condition(group_ids or (), column)
    return text, None if group_ids is None else params[0]


def of_places(group_ids: Collection[int], column: str = "pk") -> Q:
    """Return a condition for places that are in any of the groups."""
    return Q(**{f"{column}__in": PlaceInGroup.objects.filter(group__in=list(group_ids)).values("place_id")})


def meters_in_order(group_ids: Collection[int]) -> Q:
    """Return a condition for meters that are in any of the groups, for a list in order of their ids.

    It begins at the first of them: else PostgreSQL walks over all meters that are older than a young group's.
    """
    return of_meters(group_ids, "pk") & Q(pk__gte=_first(MeterInGroup, "meter_id", group_ids))


def places_in_order(group_ids: Collection[int]) -> Q:
    """Return the same for places."""
    return of_places(group_ids) & Q(pk__gte=_first(PlaceInGroup, "place_id", group_ids))


def _first(model: type[MeterInGroup] | type[PlaceInGroup], column: str, group_ids: Collection[int]) -> Subquery:
    rows = model.objects.filter(group__in=list(group_ids)).order_by(column)
    return Subquery(rows.values(column)[:1])


def of_meter(meter_id: int) -> list[tuple[FleetGroup, list[Via]]]:
    """Return the groups of a meter, and why it is in each. One query."""
    rows = MeterInGroup.objects.filter(meter_id=meter_id).select_related("group")
    why: dict[int, tuple[FleetGroup, list[Via]]] = {}
    for row in rows.order_by("group__kind", "group__name", "via"):
        why.setdefault(row.group_id, (row.group, []))[1].append(Via(row.via))
    return list(why.values())


def of_place(place_id: int) -> QuerySet[FleetGroup]:
    """Return the groups that a place itself is in."""
    mine = PlaceInGroup.objects.filter(place_id=place_id).values("group_id")
    return FleetGroup.objects.filter(pk__in=mine).order_by("kind", "name")


def add_meters(group_id: int, meter_ids: Sequence[int]) -> int:
    """Put meters into a group; return how many are new. The caller holds lock GROUPS."""
    return _add(
        "meters_meteringroup (group_id, meter_id, via)", f"m.id, {Via.METER.value}", "meters_meter", group_id, meter_ids
    )


def add_places(group_id: int, place_ids: Sequence[int]) -> int:
    """Put places into a group; return how many are new. The caller holds lock GROUPS."""
    return _add("meters_placeingroup (group_id, place_id)", "m.id", "meters_place", group_id, place_ids)


def remove_meters(group_id: int, meter_ids: Sequence[int]) -> int:
    """Take meters out of a group, in which they may still be by their place or concentrator; return how many were."""
    mine = MeterInGroup.objects.filter(group_id=group_id, meter_id__in=list(meter_ids), via=Via.METER)
    return mine._raw_delete(mine.db) or 0  # noqa: SLF001 - rows of this table alone, in one statement


def remove_places(group_id: int, place_ids: Sequence[int]) -> int:
    """Take places out of a group; return how many were in it."""
    mine = PlaceInGroup.objects.filter(group_id=group_id, place_id__in=list(place_ids))
    return mine._raw_delete(mine.db) or 0  # noqa: SLF001


def add_selected(group_id: int, chosen: Condition) -> int:
    """Put all meters into a group that a statement selects (``SELECT id ...``); return how many are new.

    None of them is read here, however many they are. The caller holds lock GROUPS.
    """
    statement, params = chosen
    with connection.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO meters_meteringroup (group_id, meter_id, via)
                SELECT %s, chosen.id, {Via.METER.value} FROM ({statement}) AS chosen ON CONFLICT DO NOTHING""",
            [group_id, *params],
        )
        return int(cursor.rowcount)


def forget_meters(group_id: int) -> None:
    """Delete which meters are in a group, by whatever way, in one statement."""
    execute("DELETE FROM meters_meteringroup WHERE group_id = %s::int", group_id)


def meter_counts(group_ids: Collection[int] | None = None) -> dict[int, int]:
    """Count the meters of groups, each once: of these, or of all. Groups without meters are left out. One query."""
    rows = MeterInGroup.objects.all() if group_ids is None else MeterInGroup.objects.filter(group__in=list(group_ids))
    return dict(rows.values_list("group_id").annotate(number=Count("meter_id", distinct=True)).order_by())


def place_counts(group_ids: Collection[int] | None = None) -> dict[int, int]:
    """Count the places of groups: of these, or of all. Groups without places are left out. One query."""
    rows = PlaceInGroup.objects.all() if group_ids is None else PlaceInGroup.objects.filter(group__in=list(group_ids))
    return dict(rows.values_list("group_id").annotate(number=Count("place_id")).order_by())


def _add(into: str, row: str, of: str, group_id: int, ids: Sequence[int]) -> int:
    return execute(
        f"""INSERT INTO {into} SELECT %s::int, {row} FROM {of} m WHERE m.id = ANY(%s::int[])
            ON CONFLICT DO NOTHING""",
        group_id,
        int_array(ids),
    )
