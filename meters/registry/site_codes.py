"""The tables of codes with what the site put in them: read for use, listed, and changed. Changes are audited."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from django.db import transaction

from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.code_models import SiteCode
from meters.codes import event_codes, qualities, tables
from meters.codes.event_codes import EventCodes
from meters.codes.qualities import Fact, Qualities
from meters.codes.reading_types import ReadingTypes
from meters.codes.tables import CodeError, Entry, Table

MOST = 5_000  # entries of a site in one table


class Listed(NamedTuple):
    """An entry in force. ``shipped`` is what it replaces, or itself; None where only the site has it."""

    key: str
    value: Entry
    is_of_site: bool
    shipped: Entry | None
    is_verified: bool
    changed_at: datetime | None = None
    changed_by: str = ""


def events() -> EventCodes:
    """Return the meanings of event codes; one query."""
    found = _of_site(Table.EVENTS)
    return EventCodes({event_codes.parse_key(key): event_codes.parse_meaning(value) for key, value in found.items()})


def reading_types() -> ReadingTypes:
    """Return the ReadingTypes of registers; one query."""
    return ReadingTypes({key: str(value["reading_type"]) for key, value in _of_site(Table.READING_TYPES).items()})


def reading_qualities() -> Qualities:
    """Return the codes of qualities; one query."""
    found = _of_site(Table.QUALITIES)
    return Qualities({Fact(key): qualities.parse_quality(value) for key, value in found.items() if key in list(Fact)})


def entries(table: Table) -> list[Listed]:
    """Return all entries of a table in force, by key: those of the site, and the shipped ones. One query."""
    own = {row.key: row for row in SiteCode.objects.filter(table=table)}
    shipped = tables.shipped(table)
    found = []
    for key in sorted({*own, *shipped}, key=_in_order):
        standard, row = shipped.get(key), own.get(key)
        value = None if standard is None else standard.value
        if row is not None:
            found.append(Listed(key, row.value, True, value, True, row.changed_at, row.changed_by))
        elif standard is not None:
            found.append(Listed(key, standard.value, False, value, standard.is_verified))
    return found


def put(table: Table, new: Mapping[str, Entry], actor: Actor, now: datetime) -> int:
    """Store entries of the site, all or none; return how many are new or changed. CodeError names the wrong one."""
    checked = {}
    for key, value in new.items():
        try:
            tables.check_key(table, key)
            checked[key] = tables.check(table, value)
        except CodeError as error:
            raise CodeError(f"{key[:60]}: {error}") from None
    with transaction.atomic():
        standing = {row.key: row.value for row in SiteCode.objects.select_for_update().filter(table=table)}
        changed = {key: value for key, value in checked.items() if standing.get(key) != value}
        if len({*standing, *changed}) > MOST:
            raise CodeError(f"a site has at most {MOST:,} entries in one table")
        SiteCode.objects.bulk_create(
            [SiteCode(table=table, key=key, value=value, changed_at=now, changed_by=actor.name[:150])
             for key, value in changed.items()],
            update_conflicts=True,
            unique_fields=["table", "key"],
            update_fields=["value", "changed_at", "changed_by"],
        )  # fmt: skip
        for key, value in changed.items():
            chain.record(actor, "codes.put", {"table": table.value, "key": key, "value": dict(value)})
    return len(changed)


def reset(table: Table, key: str, actor: Actor) -> bool:
    """Remove an entry of the site, so that the shipped one is in force again; return whether there was one."""
    with transaction.atomic():
        removed, _ = SiteCode.objects.filter(table=table, key=key).delete()
        if removed:
            chain.record(actor, "codes.reset", {"table": table.value, "key": key})
    return bool(removed)


def _of_site(table: Table) -> dict[str, Entry]:
    return dict(SiteCode.objects.filter(table=table).values_list("key", "value"))


def _in_order(key: str) -> tuple[str, int, str]:
    """Sort codes of a log by their numbers."""
    log, _, code = key.partition("/")
    return (log, int(code), "") if code else (key, 0, "")
