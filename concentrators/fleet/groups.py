"""Acts on groups of meters, places and concentrators: make, change, remove, put in and take out. Each is audited.

Audited, because rules, waves and exports follow groups, and what may be seen under them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import OperationalError, transaction
from django.db.models import Count, ProtectedError, Q, QuerySet

from ami_headend.core import database_errors, locks
from ami_headend.core.sql import chunks, execute, int_array
from ami_headend.core.text import counted
from concentrators.models import Concentrator, ConcentratorInGroup
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup
from meters.registry import groups
from meters.registry.groups import GroupError, GroupName
from meters.registry.search import Condition

_LOCK_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Members:
    """Meters, places and concentrators, by their ids."""

    meters: Sequence[int] = ()
    places: Sequence[int] = ()
    concentrators: Sequence[int] = ()


class Counts(NamedTuple):
    """Numbers of meters, places and concentrators."""

    meters: int = 0
    places: int = 0
    concentrators: int = 0

    def __str__(self) -> str:
        both = f"{counted(self.meters, 'meter')}, {counted(self.places, 'place')}"
        return f"{both}, {counted(self.concentrators, 'concentrator')}"


def of_concentrators(group_ids: Collection[int], column: str = "concentrator") -> Q:
    """Return a condition for rows whose concentrator is in any of the groups; ``pk`` of concentrators."""
    mine = ConcentratorInGroup.objects.filter(group__in=list(group_ids))
    return Q(**{f"{column}__in": mine.values("concentrator_id")})


def concentrator_condition(group_ids: Iterable[int], column: str) -> Condition:
    """Return SQL that is true where the column has the id of a concentrator in any of the groups, and parameters."""
    mine = "SELECT g.concentrator_id FROM concentrators_concentratoringroup g WHERE g.group_id = ANY(%s::int[])"
    return f"{column} IN ({mine})", [int_array(group_ids)]


def concentrator_ids(group_ids: Collection[int]) -> list[int]:
    """Return the concentrators that are in any of the groups: hundreds, where meters are thousands. One query."""
    mine = ConcentratorInGroup.objects.filter(group__in=list(group_ids))
    return sorted(set(mine.values_list("concentrator_id", flat=True)))


def of_concentrator(concentrator_id: int) -> QuerySet[FleetGroup]:
    """Return the groups that a concentrator is in."""
    mine = ConcentratorInGroup.objects.filter(concentrator_id=concentrator_id).values("group_id")
    return FleetGroup.objects.filter(pk__in=mine).order_by("kind", "name")


def make(name: GroupName, actor: Actor, note: str = "") -> FleetGroup:
    """Make a group. GroupError if there is one like it; AuditError or MasterKeyError: none was made."""
    with _locked():
        if groups.named([name]):
            raise GroupError(f"there is a group {name} already")
        group = FleetGroup(kind=name.kind, name=name.name, note=note)
        _save(group)
        chain.record(actor, "group.make", {"group": str(group), "id": group.pk})
    return group


def change(group: FleetGroup, actor: Actor, name: GroupName | None = None, note: str | None = None) -> None:
    """Give a group another name, kind or note; what refers to it follows. GroupError if the name is taken."""
    with _locked(group):
        before = str(group)
        if name is not None:
            other = groups.named([name]).get(name.key)
            if other is not None and other.pk != group.pk:
                raise GroupError(f"there is a group {name} already")
            group.kind, group.name = name
        group.note = group.note if note is None else note
        _save(group)
        chain.record(actor, "group.change", {"group": str(group), "id": group.pk, "before": before})


def remove(group: FleetGroup, actor: Actor) -> None:
    """Remove a group; meters, places and concentrators stay. GroupError where a rule or the like is for it."""
    with _locked(group):
        number, name = group.pk, str(group)
        groups.forget_meters(group.pk)  # first, in one statement: places and concentrators would look up each again
        try:
            group.delete()
        except ProtectedError as error:
            users = sorted(f"{row._meta.verbose_name} {row}" for row in error.protected_objects)
            raise GroupError(f"group {name} is in use: {', '.join(users[:5])}") from None
        chain.record(actor, "group.remove", {"group": name, "id": number})


def put(group: FleetGroup, members: Members, actor: Actor, *, dry_run: bool = False) -> Counts:
    """Put members into a group; return how many are new. Three statements of set work, and one record of audit."""
    with _locked(group):
        counts = _put(group.pk, members)
        _note(actor, "group.put", group, members, counts, dry_run=dry_run)
    return counts


def take(group: FleetGroup, members: Members, actor: Actor, *, dry_run: bool = False) -> Counts:
    """Take members out of a group; return how many were in it themselves."""
    with _locked(group):
        counts = _take(group.pk, members)
        _note(actor, "group.take", group, members, counts, dry_run=dry_run)
    return counts


def put_and_take(group: FleetGroup, more: Members, fewer: Members, actor: Actor) -> tuple[Counts, Counts]:
    """Put members in and take others out; return how many were put, and how many taken. All or nothing."""
    with transaction.atomic():
        put_in = put(group, more, actor) if _any(more) else Counts()
        taken = take(group, fewer, actor) if _any(fewer) else Counts()
    return put_in, taken


def put_meters(group: FleetGroup, chosen: Condition, actor: Actor) -> int:
    """Put all meters into a group that a statement selects (``SELECT id ...``); return how many are new.

    None of them is read here, however many they are.
    """
    with _locked(group):
        number = groups.add_selected(group.pk, chosen)
        chain.record(
            actor,
            "group.put",
            {"group": str(group), "id": group.pk, "by": "filters"},
            f"{counted(number, 'meter')} new",
        )
    return number


@dataclass
class Wanted:
    """Which members each group of an import gets, by the key of its name."""

    names: dict[tuple[str, str], GroupName]
    members: dict[tuple[str, str], Members]

    def add(self, name: GroupName, **ids: int) -> None:
        """Add members: ``meters=ID``, ``places=ID`` or ``concentrators=ID``."""
        self.names.setdefault(name.key, name)
        lists = self.members.setdefault(name.key, Members([], [], []))
        for what, number in ids.items():
            getattr(lists, what).append(number)


def put_all(wanted: Wanted, actor: Actor) -> tuple[int, Counts]:
    """Put members into many groups, which are made where they are new; return how many were, and the new members.

    Inside the caller's transaction, which holds lock GROUPS (``lock``). One record of audit for all.
    """
    new = len(wanted.names) - len(groups.named(list(wanted.names.values())))
    rows = groups.ensure(list(wanted.names.values()))
    total = Counts()
    for key, members in wanted.members.items():
        for part in _parts(members):
            total = _sum(total, _put(rows[key].pk, part))
    _note_all(actor, "group.put", wanted, total)
    return new, total


def take_all(wanted: Wanted, actor: Actor) -> Counts:
    """Take members out of groups that exist; return how many were in them. As ``put_all``."""
    rows = groups.named(list(wanted.names.values()))
    total = Counts()
    for key, members in wanted.members.items():
        for part in _parts(members):
            total = _sum(total, _take(rows[key].pk, part))
    _note_all(actor, "group.take", wanted, total)
    return total


def lock() -> None:
    """Hold lock GROUPS until the transaction ends. GroupError if an import of meters does not let go of it."""
    execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    try:
        locks.take(locks.GROUPS)
    except OperationalError as error:
        if database_errors.sqlstate(error) == "55P03":
            raise GroupError("meters are being imported or moved: try again once that has ended") from None
        raise
    execute("SET LOCAL lock_timeout = DEFAULT")


@contextmanager
def _locked(group: FleetGroup | None = None) -> Iterator[None]:
    """Hold lock GROUPS in a transaction, with a group as it is then; GroupError if it was removed meanwhile."""
    with transaction.atomic():
        lock()
        if group is not None:
            try:
                group.refresh_from_db()
            except FleetGroup.DoesNotExist:
                raise GroupError(f"group {group} was removed meanwhile") from None
        yield


def _save(group: FleetGroup) -> None:
    try:
        group.full_clean(validate_unique=False)
    except ValidationError as error:
        raise GroupError("; ".join(error.messages).rstrip(".")) from None
    group.save()


def _any(members: Members) -> bool:
    return any(getattr(members, field.name) for field in fields(Members))


def _put(group_id: int, members: Members) -> Counts:
    return Counts(
        groups.add_meters(group_id, members.meters),
        groups.add_places(group_id, members.places),
        _add_concentrators(group_id, members.concentrators),
    )


def _take(group_id: int, members: Members) -> Counts:
    concentrators = ConcentratorInGroup.objects.filter(group=group_id, concentrator__in=list(members.concentrators))
    return Counts(
        groups.remove_meters(group_id, members.meters),
        groups.remove_places(group_id, members.places),
        concentrators._raw_delete(concentrators.db) or 0,  # noqa: SLF001 - rows of this table alone, in one statement
    )


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*map(sum, zip(one, other, strict=True)))


def _note_all(actor: Actor, act: str, wanted: Wanted, total: Counts) -> None:
    if wanted.names:
        named = [str(name) for name in list(wanted.names.values())[: chain.NAMED_MAX]]
        chain.record(actor, act, {"groups": named, "count": len(wanted.names)}, str(total))


def _add_concentrators(group_id: int, ids: Sequence[int]) -> int:
    there = ConcentratorInGroup.objects.filter(group=group_id, concentrator__in=list(ids))
    missing = set(ids) - set(there.values_list("concentrator_id", flat=True))
    known = Concentrator.objects.filter(pk__in=missing).values_list("pk", flat=True)
    rows = [ConcentratorInGroup(group_id=group_id, concentrator_id=pk) for pk in known]
    return len(ConcentratorInGroup.objects.bulk_create(rows)) if rows else 0


def _parts(members: Members) -> Iterator[Members]:
    """Split members into parts that one statement takes each."""
    for field in fields(Members):
        for part in chunks(getattr(members, field.name)):
            yield replace(Members(), **{field.name: part})


def _note(actor: Actor, act: str, group: FleetGroup, members: Members, counts: Counts, *, dry_run: bool) -> None:
    if dry_run:
        transaction.set_rollback(True)
        return
    subject: dict[str, Any] = {"group": str(group), "id": group.pk}
    for field in fields(Members):
        if ids := list(getattr(members, field.name)):
            subject[field.name] = {"ids": sorted(ids)[: chain.NAMED_MAX], "count": len(ids)}
    chain.record(actor, act, subject, str(counts))


def sizes(now: datetime) -> dict[int, Counts]:
    """Count the members of every group: meters by whatever way, places and concentrators themselves. Three queries."""
    meters, places = groups.meter_counts(), groups.place_counts()
    rows = ConcentratorInGroup.objects.values_list("group_id").annotate(number=Count("concentrator_id")).order_by()
    concentrators = dict(rows)
    return {
        pk: Counts(meters.get(pk, 0), places.get(pk, 0), concentrators.get(pk, 0))
        for pk in {*meters, *places, *concentrators}
    }


def size(group: FleetGroup) -> Counts:
    """Count the members of one group: its index ranges alone. Three queries."""
    in_it = ConcentratorInGroup.objects.filter(group=group).count()
    return Counts(
        groups.meter_counts([group.pk]).get(group.pk, 0), groups.place_counts([group.pk]).get(group.pk, 0), in_it
    )
