"""From which databases this release goes on: where migrations were squashed and their files are gone, all or none.

A squashed migration replaces those before it. Django applies it to an empty database, and takes it as applied where all
that it replaces is. Half of them it could finish with the files alone that are gone
(docs/adr/0031-squashed-migrations.md).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration

OLDEST = "7224772"  # the last commit that has the files of all that was squashed
_NAMED = 3

Key = tuple[str, str]  # app and name of a migration, as django_migrations has them


class HalfWayError(Exception):
    """A database, or a backup, of a release before the oldest one; the message says so, and what it lacks."""


def known() -> set[Key]:
    """The migrations that this release has, and those that they replace."""
    migrations = _on_disk()
    return {*migrations, *(key for migration in migrations.values() for key in migration.replaces)}


def check(applied: Iterable[Key]) -> None:
    """HalfWayError where some of what a squashed migration replaces is applied, and some of it not."""
    missing = sorted(half_way(set(applied), _gone()))
    if missing:
        names = ", ".join(f"{app}.{name}" for app, name in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise HalfWayError(
            f"it is of a release before {OLDEST}, the oldest that this one goes on from: it lacks {names}{more}"
        )


def half_way(applied: Collection[Key], replaced: Iterable[Collection[Key]]) -> set[Key]:
    """What is missing of those groups of replaced migrations that are applied in part. Pure."""
    missing = set()
    for group in replaced:
        lacks = set(group).difference(applied)
        if len(lacks) < len(group):
            missing |= lacks
    return missing


def _gone() -> list[Sequence[Key]]:
    """What each squashed migration replaces, where the files of it are gone."""
    migrations = _on_disk()
    return [one.replaces for one in migrations.values() if any(key not in migrations for key in one.replaces)]


def _on_disk() -> Mapping[Key, Migration]:
    found: Mapping[Key, Migration] = MigrationLoader(None).disk_migrations
    return found
