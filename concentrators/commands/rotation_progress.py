"""Rotations in progress, and recent ones: waves of device keys, and the master key."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from concentrators.commands import rollouts
from concentrators.models import RotationWave, WaveState
from keyvault.models import MasterKeyRotation, RotationState

GOING_ON = ("running", "paused", "stopped")


class Kind(StrEnum):
    """What gets a new key."""

    MASTER_KEY = "master key"
    DEVICE_KEYS = "device keys"
    FLEET_KEY = "fleet key"


class Rotation(NamedTuple):
    """One rotation and its progress: ``done`` of ``total`` secrets rewrapped, or meters that send under a new key.

    ``id`` is that of its wave, or of the rotation of the master key.
    """

    kind: Kind
    id: int
    name: str
    state: str
    done: int
    total: int
    failures: int
    began_at: datetime
    ended_at: datetime | None

    @property
    def is_going_on(self) -> bool:
        return self.state in GOING_ON


def rotations(limit: int) -> list[Rotation]:
    """Return the newest rotations, those in progress first; three queries."""
    found = [*_of_device_keys(limit), *_of_master_key(limit)]
    found.sort(key=lambda one: (not one.is_going_on, -one.began_at.timestamp()))
    return found[:limit]


def _of_device_keys(limit: int) -> list[Rotation]:
    rows = list(RotationWave.objects.order_by("-pk")[:limit])
    standing = rollouts.progresses(rows)
    return [
        Rotation(
            Kind.DEVICE_KEYS if row.fleet_key_id is None else Kind.FLEET_KEY,
            row.pk,
            row.name,
            WaveState(row.state).value,
            standing[row.pk].states.get("done", 0),
            standing[row.pk].meters,
            standing[row.pk].failures,
            row.created_at,
            row.finished_at,
        )
        for row in rows
    ]


def _of_master_key(limit: int) -> list[Rotation]:
    return [
        Rotation(
            Kind.MASTER_KEY,
            row.pk,
            f"to version {row.to_version}",
            RotationState(row.state).value,
            row.rewrapped,
            row.total,
            row.unreadable,
            row.started_at,
            row.finished_at,
        )
        for row in MasterKeyRotation.objects.order_by("-pk")[:limit]
    ]
