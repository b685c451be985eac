"""Cutting keys off that others may know: a concentrator's, too, which knows the link keys of all its meters."""

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
    """How many keys were cut off, and the waves that give the meters of concentrators among them new keys."""

    keys: int
    waves: list[RotationWave]


def cut_off(key_ids: Sequence[int], actor: Actor, now: datetime) -> CutOff:
    """Cut keys off at once and for good (``epochs.compromise``); audited.

    Of a concentrator that was among them, all meters get new keys by a wave: it knew what protects them on the local
    link. None begins where no meter of it can get a key by command now. All or nothing.
    """
    with transaction.atomic():
        moved = epochs.compromise(key_ids, actor)
        titles = DeviceKey.objects.filter(pk__in=key_ids).values("system_title")
        holders = Concentrator.objects.filter(system_title__in=titles).order_by("pk") if moved else ()
        waves = [wave for one in holders if (wave := _renew(one, actor, now)) is not None]
    return CutOff(moved, waves)


def _renew(concentrator: Concentrator, actor: Actor, now: datetime) -> RotationWave | None:
    name = f"concentrator {concentrator} compromised {now:%Y-%m-%d %H:%M:%S}"[:120]
    selection = Selection(concentrator=concentrator)
    try:
        budget = rollouts.selected(selection, now).count()
        return rollouts.begin(name, selection, actor, now, _RATE_PER_HOUR, budget)
    except WaveError:
        return None
