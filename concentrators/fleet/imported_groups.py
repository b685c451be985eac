"""Groups and tags that lines of an import of meters name: of the meter, and of its place. They are only ever added."""

from collections.abc import Mapping, Sequence

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.names import Alike, alike
from ami_headend.core.sql import chunks
from concentrators.fleet import groups as acts
from concentrators.fleet.groups import Wanted
from keyvault.audit.chain import Actor
from meters.group_models import MeterInGroup, PlaceInGroup, Via
from meters.models import Meter, Place
from meters.registry import groups
from meters.registry.groups import GroupName
from meters.registry.import_plan import ImportPlan
from meters.registry.meter_file import MeterLine

Standing = Sequence[tuple[MeterLine, Meter]]


def are_named(lines: Sequence[MeterLine]) -> bool:
    """Whether any line names a group or a tag."""
    return any(line.groups or line.place_groups for line in lines)


def check(plan: ImportPlan, standing: Standing, *, update: bool) -> Standing:
    """Return registered meters that are not in a named group yet, or whose places are not; without ``update`` such a
    line is bad.
    """
    joining: list[tuple[MeterLine, Meter]] = []
    for chunk in chunks([(line, meter) for line, meter in standing if line.groups or line.place_groups]):
        known = {key: row.pk for key, row in groups.named(_names([line for line, _ in chunk])).items()}
        places = _places([line for line, _ in chunk])
        meters_in = _pairs(MeterInGroup, "meter_id", [meter.pk for _, meter in chunk], known, via=Via.METER)
        places_in = _pairs(PlaceInGroup, "place_id", list(places.values()), known)
        for line, meter in chunk:
            place = places.get(alike(line.place or ""))
            missing = [name for name in line.groups or () if (known.get(name.key), meter.pk) not in meters_in]
            missing += [name for name in line.place_groups or () if (known.get(name.key), place) not in places_in]
            if not missing:
                continue
            joining.append((line, meter))
            if not update:
                reason = f"meter {meter} is registered, and is not in {', '.join(map(str, missing))}: give --update"
                plan.bad.append(BadLine(line.line, reason))
    return joining


def put(new: Sequence[MeterLine], added: Mapping[bytes, int], joining: Standing, actor: Actor) -> int:
    """Put new meters (ids by title) and registered ones into their groups, and their places; how many memberships.

    Inside the caller's transaction, which holds lock GROUPS. Audited.
    """
    pairs = [(line, added[line.system_title]) for line in new] + [(line, meter.pk) for line, meter in joining]
    wanted = Wanted({}, {})
    for chunk in chunks(pairs):
        places = _places([line for line, _ in chunk])
        for line, meter_id in chunk:
            for name in line.groups or ():
                wanted.add(name, meters=meter_id)
            for name in line.place_groups or ():
                wanted.add(name, places=places[alike(line.place or "")])
    _, counts = acts.put_all(wanted, actor)
    return sum(counts)


def _names(lines: Sequence[MeterLine]) -> list[GroupName]:
    every = (name for line in lines for name in (*(line.groups or ()), *(line.place_groups or ())))
    return list({name.key: name for name in every}.values())


def _places(lines: Sequence[MeterLine]) -> dict[str, int]:
    wanted = {alike(line.place) for line in lines if line.place and line.place_groups}
    if not wanted:
        return {}
    return dict(Place.objects.annotate(alike=Alike("name")).filter(alike__in=wanted).values_list("alike", "pk"))


def _pairs(
    model: type[MeterInGroup] | type[PlaceInGroup],
    column: str,
    ids: Sequence[int],
    known: Mapping[tuple[str, str], int],
    **more: int,
) -> set[tuple[int | None, int | None]]:
    """Return which of the rows are in which of the groups, as pairs of ids: the group's first."""
    if not ids or not known:
        return set()
    rows = model.objects.filter(**{f"{column}__in": ids}, group__in=list(known.values()), **more)
    return set(rows.values_list("group_id", column))
