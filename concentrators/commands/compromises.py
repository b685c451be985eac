"""Cuts off keys that others may know; the key of a concentrator gives access to the hop keys of all its meters."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import transaction

from concentrators.commands import rollouts
from concentrators.commands.rollouts import WaveError
from concentrators.fleet.selection import Selection
from concentrators.models import Concentrator, RotationWave
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs
from keyvault.models import DeviceKey

_RATE_PER_HOUR = 1_000


class CutOff(NamedTuple):
    """The number of keys that were cut off, and the waves that give new keys to the meters of concentrators.

    ``undone`` are sentences: why the wave of a concentrator could not begin, so that somebody has to begin it.
    """

    keys: int
    waves: list[RotationWave]
    undone: list[str]


def cut_off(key_ids: Sequence[int], actor: Actor, now: datetime) -> CutOff:
    """Cut keys off at once and for good (``epochs.compromise``); audited.

    If one is the key of a concentrator, a wave gives new keys to all its meters, because it knew their hop keys. There
    is no wave if none of them can get a key by command now. A wave that is refused leaves the keys cut off: whoever
    has them must not gain time by it.
    """
    waves, undone = [], []
    with transaction.atomic():
        moved = epochs.compromise(key_ids, actor)
        titles = DeviceKey.objects.filter(pk__in=key_ids).values("system_title")
        for holder in Concentrator.objects.filter(system_title__in=titles).order_by("pk") if moved else ():
            try:
                wave = _renew(holder, actor, now)
            except WaveError as error:
                undone.append(f"the meters of concentrator {holder} still need new keys, and their wave waits: {error}")
            else:
                waves += [] if wave is None else [wave]
    return CutOff(moved, waves, undone)


def _renew(concentrator: Concentrator, actor: Actor, now: datetime) -> RotationWave | None:
    name = f"concentrator {concentrator} compromised {now:%Y-%m-%d %H:%M:%S}"[:120]
    selection = Selection(concentrator=concentrator)
    budget = rollouts.selected(selection, now).count()
    return rollouts.begin(name, selection, actor, now, _RATE_PER_HOUR, budget) if budget else None
