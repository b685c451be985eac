"""Which databases this release can upgrade: of the migrations that were squashed, all must be applied, or none.

A squashed migration replaces earlier ones. Django applies it to an empty database, and counts it as applied if all that
it replaces are. If only some of them are, it would need their files, which are deleted
(docs/adr/0031-squashed-migrations.md).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration

from ami_headend.core.text import some

OLDEST = "7224772"  # the last commit with the files of all squashed migrations
_NAMED = 3

Key = tuple[str, str]  # app and name of a migration, as django_migrations has them


class HalfWayError(Exception):
    """A database or backup from before the oldest supported release; the message says so, and what it lacks."""


def known() -> set[Key]:
    """Return the migrations of this release, and those that they replace."""
    migrations = _on_disk()
    return {*migrations, *(key for migration in migrations.values() for key in migration.replaces)}


def check(applied: Iterable[Key]) -> None:
    """HalfWayError if only some of the migrations that a squashed one replaces are applied."""
    missing = sorted(half_way(set(applied), _gone()))
    if missing:
        names = some([f"{app}.{name}" for app, name in missing], _NAMED)
        raise HalfWayError(
            f"it is of a release before {OLDEST}, the oldest that this one goes on from: it lacks {names}"
        )


def half_way(applied: Collection[Key], replaced: Iterable[Collection[Key]]) -> set[Key]:
    """Return the missing migrations of each group that is only partly applied. Pure."""
    missing = set()
    for group in replaced:
        lacks = set(group).difference(applied)
        if len(lacks) < len(group):
            missing |= lacks
    return missing


def _gone() -> list[Sequence[Key]]:
    """Return the migrations that each squashed one replaces, if their files are deleted."""
    migrations = _on_disk()
    return [one.replaces for one in migrations.values() if any(key not in migrations for key in one.replaces)]


def _on_disk() -> Mapping[Key, Migration]:
    found: Mapping[Key, Migration] = MigrationLoader(None).disk_migrations
    return found
