"""Costly questions of the pages of keys, over every key or every meter of a wave. Their answers are cached
(cached_answers.py).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.utils import timezone

from ami_headend import cached_answers
from ami_headend.cached_answers import Question
from concentrators.commands import rollouts
from concentrators.commands.rollouts import RolloutProgress
from concentrators.models import RotationWave
from keyvault.device_keys import agreement_keys, fleet_keys, inventory
from keyvault.device_keys.inventory import DeviceKeys, Notable
from keyvault.enrolment import inventory as enrolment
from keyvault.enrolment.inventory import EnrolmentStanding
from keyvault.master_key import census
from keyvault.master_key.census import Count

LISTED = 10
WAVES_LISTED = 50


class KeysStanding(NamedTuple):
    """Counts of device keys, and keys that need attention."""

    keys: DeviceKeys
    overdue: Notable
    without_successor: Notable
    near_budget: Notable


class FleetKeyRow(NamedTuple):
    """A fleet key, and the device keys derived from it."""

    id: int
    name: str
    active: int
    usable: int


class AgreementRow(NamedTuple):
    """A version of an agreement key: its X25519 public key (32 octets), its meters, and its keys that are usable."""

    name: str
    version: int
    public: bytes
    state: str
    created_at: datetime
    replaced_at: datetime | None
    cut_off_at: datetime | None
    meters: int
    usable: int


def _keys(now: datetime) -> KeysStanding:
    return KeysStanding(
        inventory.device_keys(),
        inventory.overdue(now, LISTED),
        inventory.without_successor(LISTED),
        inventory.near_budget(LISTED),
    )


def _fleet_keys(now: datetime) -> list[FleetKeyRow]:
    return [FleetKeyRow(row.fleet_key.pk, row.fleet_key.name, row.active, row.usable) for row in fleet_keys.standings()]


def _agreement(now: datetime) -> list[AgreementRow]:
    return [
        AgreementRow(
            use.key.name,
            use.key.version,
            bytes(use.key.public),
            use.key.state,
            use.key.created_at,
            use.key.replaced_at,
            use.key.cut_off_at,
            use.meters,
            use.usable,
        )
        for use in agreement_keys.standings()
    ]


def _waves(now: datetime) -> dict[int, RolloutProgress]:
    return dict(rollouts.progresses(list(RotationWave.objects.order_by("-pk")[:WAVES_LISTED])))


KEYS = Question("device keys", _keys, KeysStanding)
FLEET_KEYS = Question("fleet keys", _fleet_keys, list[FleetKeyRow])
AGREEMENT = Question("agreement keys", _agreement, list[AgreementRow])
ENROLMENT = Question("enrolment", lambda now: enrolment.standing(now, LISTED), EnrolmentStanding)
CENSUS = Question("census", lambda now: census.census(), list[Count])
WAVES = Question("waves", _waves, dict[int, RolloutProgress])

RENEWED = (KEYS, FLEET_KEYS, AGREEMENT, ENROLMENT, CENSUS, WAVES)


def ask(question: Question) -> Any:
    """Return the answer to one question."""
    return cached_answers.answers([question], timezone.now())[question.name].found


def progress_of_all(found: Sequence[RotationWave]) -> Mapping[int, RolloutProgress]:
    """Return the progress of the newest waves. Waves that began after the answer was cached are queried by
    themselves.
    """
    known: dict[int, RolloutProgress] = ask(WAVES)
    fresh = [wave for wave in found if wave.pk not in known]
    return {**known, **rollouts.progresses(fresh)} if fresh else known


def progress_of(wave: RotationWave) -> RolloutProgress:
    """Return the progress of one wave. Each state has a question of its own, so that no old answer outlives a
    change.
    """
    question = Question(f"wave {wave.pk} {wave.state}", lambda now: rollouts.progress(wave), RolloutProgress)
    progress: RolloutProgress = ask(question)
    return progress
