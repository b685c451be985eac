"""Rotations for the demo: when none is in progress, the kind that is longest ago begins. Keys wear out fast there.

Everything follows from the database, so a demo that was stopped continues.
"""

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from ami_headend.core import clock
from ami_headend.core.text import counted
from concentrators.commands import guard, rollouts, rotation_progress
from concentrators.commands.rollouts import WaveError
from concentrators.commands.rotation_progress import Kind
from concentrators.fleet.selection import Selection
from concentrators.models import CommandKind, CommandLimit, Concentrator, LimitSpan, RotationWave
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs
from keyvault.device_keys.fleet_keys import standings
from keyvault.master_key import rewrap
from keyvault.master_key.rewrap import RotationError
from keyvault.models import DeviceKey, KeyState
from keyvault.tasks import rewrap_master_key

ACTOR = Actor("demo", "manage.py demo")
LASTS = timedelta(minutes=4)  # the length of a wave, about
_PATIENCE = timedelta(minutes=15)  # after this time, an unfinished wave no longer delays others
_LOST = 2  # keys found compromised at once
_BATCH = 5  # so few secrets that people can watch it progress
_KEYS_OF = "keys of "
_COMPROMISE = "replacing compromised keys"
_RESTS = {Kind.MASTER_KEY.value: timedelta(minutes=15), _COMPROMISE: timedelta(minutes=10)}


def begin_next(now: datetime) -> str | None:
    """Begin the next rotation unless one is in progress; return its name, or None."""
    latest = rotation_progress.rotations(20)
    if not DeviceKey.objects.exists():  # the meters are not registered yet
        return None
    if any(one.state == "running" and clock.is_within(one.began_at, _PATIENCE, now) for one in latest):
        return None
    _need_no_second_person()
    acts: dict[str, Callable[[datetime], str]] = {
        Kind.DEVICE_KEYS.value: _device_keys,
        Kind.MASTER_KEY.value: _master_key,
        Kind.FLEET_KEY.value: _fleet_key,
        _COMPROMISE: _compromised,
    }
    begun: dict[str, datetime] = {}
    for one in latest:
        kind = _COMPROMISE if one.name == _COMPROMISE else one.kind.value
        begun[kind] = max(begun.get(kind, one.began_at), one.began_at)
    never = datetime.min.replace(tzinfo=now.tzinfo)
    for kind in sorted(acts, key=lambda kind: begun.get(kind, never)):
        if clock.has_rested(begun.get(kind), _RESTS.get(kind, timedelta()), now):
            try:
                return acts[kind](now)
            except (WaveError, RotationError):  # nothing to rotate there now: try the next kind
                continue
    return None


def _device_keys(now: datetime) -> str:
    """Give new keys to the meters of one concentrator, the next one each time."""
    concentrators = list(Concentrator.objects.filter(is_active=True).order_by("pk"))
    if not concentrators:
        raise WaveError("there is no concentrator yet")
    had = RotationWave.objects.filter(name__startswith=_KEYS_OF).count()
    chosen = concentrators[had % len(concentrators)]
    selection = Selection(concentrator=chosen)
    return _wave(f"{_KEYS_OF}{chosen}"[:120], selection, now)


def _fleet_key(now: datetime) -> str:
    """Replace the present fleet key and all keys derived from it."""
    old = next((row.fleet_key for row in reversed(standings()) if row.active), None)
    if old is None:
        raise WaveError("no key is derived")
    meters = rollouts.selected(Selection(derived_from=old), now).count()
    wave = rollouts.replace_fleet_key(old, f"demo {now:%Y-%m-%d %H:%M:%S}", ACTOR, now, _rate(meters), meters)
    return f"wave {wave.pk}: {wave.name}"


def _need_no_second_person() -> None:
    """Give the demo limits of its own: it rotates all day, and nobody is there to release what it begins."""
    own = CommandLimit.objects.filter(kind=CommandKind.SET_KEY, account=ACTOR.name)
    for span in {LimitSpan.ACT, LimitSpan.DAY} - set(own.values_list("span", flat=True)):
        limit = CommandLimit(kind=CommandKind.SET_KEY, span=span, most=1_000_000, account=ACTOR.name)
        guard.save_limit(ACTOR, limit)


def _compromised(now: datetime) -> str:
    """Compromise some keys, and replace them under the transfer keys."""
    titles = list(rollouts.selected(Selection(everything=True), now).values_list("system_title", flat=True))
    lost = random.sample(titles, min(_LOST, len(titles)))
    keys = DeviceKey.objects.filter(system_title__in=lost, epoch__gt=0, state=KeyState.ACTIVE)
    epochs.compromise(list(keys.values_list("pk", flat=True)), ACTOR)
    return _wave(_COMPROMISE, Selection(compromised=True), now)


def _master_key(now: datetime) -> str:
    """Make a new version of the master key and rewrap every secret under it."""
    rotation = rewrap.begin(_BATCH, ACTOR)
    rewrap_master_key.delay(rotation.pk)
    return f"master key to version {rotation.to_version}: {counted(rotation.total, 'secret')}"


def _wave(name: str, selection: Selection, now: datetime) -> str:
    meters = rollouts.selected(selection, now).count()
    wave = rollouts.begin(name, selection, ACTOR, now, _rate(meters), failure_budget=meters)
    return f"wave {wave.pk}: {wave.name}"


def _rate(meters: int) -> int:
    """Return a rate per hour at which all meters are queued in time."""
    return max(60, int(meters * (timedelta(hours=1) / LASTS)))
