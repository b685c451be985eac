"""Queries of the overview about rotations in progress."""

from datetime import datetime
from typing import NamedTuple

from ami_headend.cached_answers import Question
from concentrators.commands import rollouts
from concentrators.models import RotationWave, WaveState

_UNDER_WAY = (WaveState.RUNNING, WaveState.PAUSED, WaveState.STOPPED)
_WAVES = 5


class WaveRow(NamedTuple):
    """A wave that has not ended: its meters, and how many have the new key, an open command, or failed."""

    id: int
    name: str
    state: str
    meters: int
    done: int
    open: int
    failures: int
    failure_budget: int


def _open_waves(now: datetime) -> list[WaveRow]:
    found = list(RotationWave.objects.filter(state__in=_UNDER_WAY).order_by("-pk")[:_WAVES])
    progress = rollouts.progresses(found) if found else {}
    return [
        WaveRow(
            wave.pk,
            wave.name,
            wave.state,
            standing.meters,
            standing.states.get("done", 0),
            standing.open,
            standing.failures,
            wave.failure_budget,
        )
        for wave in found
        for standing in [progress[wave.pk]]
    ]


OPEN_WAVES = Question("open waves", _open_waves, list[WaveRow])
