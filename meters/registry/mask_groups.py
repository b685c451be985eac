"""Which mask authorities a meter was made with: the group that they were pinned in."""

from collections.abc import Sequence

from django.db import transaction

from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.models import Meter

_NAME_MAX = 60


class MaskGroupError(ValueError):
    """A group, or meters, that cannot be so; the caller's mistake, named."""


def check(group: str) -> None:
    """MaskGroupError where a group cannot have that name."""
    if len(group) > _NAME_MAX or not group.isprintable():
        raise MaskGroupError(f"the name of a mask group has up to {_NAME_MAX} printable characters")


def assign(system_titles: Sequence[bytes], group: str, actor: Actor) -> int:
    """Say that meters (system title, 8 octets) were made with the authorities of a group; how many are of it newly.

    MaskGroupError where a title is no meter's. Audited.
    """
    check(group)
    titles = sorted(set(system_titles))
    with transaction.atomic():
        rows = Meter.objects.filter(system_title__in=titles)
        there = {bytes(title) for title in rows.values_list("system_title", flat=True)}
        if missing := [title.hex() for title in titles if title not in there]:
            raise MaskGroupError(f"no meter has the system title {', '.join(missing[:20])}")
        changed = rows.exclude(mask_group=group).update(mask_group=group)
        named = [title.hex() for title in titles[: chain.NAMED_MAX]]
        chain.record(actor, "meter.mask_group", {"devices": named, "count": len(titles), "group": group})
    return changed
