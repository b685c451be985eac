"""Rotation of the master key: a new version, and every secret rewrapped under it, batch by batch.

A batch and its progress are one transaction, so that a rotation can be killed at any instruction and continues where
it stopped. The secrets themselves do not change: caches of ciphers stay valid.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from time import monotonic

from django.db import OperationalError, transaction
from django.utils import timezone
from psycopg.errors import DeadlockDetected

from ami_headend.core import clock
from ami_headend.core.sql import execute, int_array, octets_array
from keyvault import master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.master_key import MasterKeyError, MasterKeys, UnwrapError, census
from keyvault.master_key.census import Secret
from keyvault.master_key.rotation_lock import changing_versions
from keyvault.models import MasterKeyRotation, RotationState

logger = logging.getLogger(__name__)

BATCH_SIZE = 1_000
BATCH_SIZE_MAX = 100_000
OVERDUE_S = 30
_TRIES = 4


class RotationError(Exception):
    """A rotation that cannot be begun, resumed or stopped as asked; the message says why."""


def begin(batch_size: int | None, actor: Actor) -> MasterKeyRotation:
    """Make and activate a new version, and count the secrets to rewrap.

    A version that an interrupted ``begin`` left behind is used. RotationError if a rotation is in progress already,
    MasterKeyError if no version can be made.
    """
    _check_batch_size(batch_size)
    with changing_versions():
        standing = current()
        if standing is not None:
            raise RotationError(
                f"the rotation to version {standing.to_version} is {standing.state} at {standing.rewrapped} of "
                f"{standing.total}: resume it (--resume) first"
            )
        made = _left_behind()
        to_version = made or max(version.number for version in master_key.provider().versions()) + 1
        chain.record(actor, "master_key.rotate", {"to_version": to_version}, "begun")
        rotation = MasterKeyRotation.objects.create(
            to_version=to_version,
            batch_size=batch_size or BATCH_SIZE,
            total=census.count_not_at(to_version),
            beat_at=timezone.now(),
        )
        if made is None and master_key.provider().add_version() != to_version:
            raise MasterKeyError("the master key changed meanwhile: try again")
    return rotation


def current() -> MasterKeyRotation | None:
    """Return the rotation that is running or stopped, if there is one."""
    return MasterKeyRotation.objects.exclude(state=RotationState.FINISHED).order_by("pk").first()


def resume(actor: Actor, batch_size: int | None = None) -> MasterKeyRotation:
    """Continue a rotation, with its batch size or another one.

    If there is none, but secrets are under older versions, one begins for those. RotationError if nothing is left to
    rewrap.
    """
    _check_batch_size(batch_size)
    with changing_versions():
        rotation = current()
        if rotation is None:
            to_version = master_key.provider().fresh().active_version
            total = census.count_not_at(to_version)
            if not total:
                raise RotationError(f"there is nothing to resume: every secret is under version {to_version}")
            rotation = MasterKeyRotation(to_version=to_version, batch_size=BATCH_SIZE, total=total)
        rotation.state = RotationState.RUNNING
        rotation.batch_size = batch_size or rotation.batch_size
        rotation.beat_at = timezone.now()
        rotation.save()
        chain.record(actor, "master_key.resume", _subject(rotation))
    return rotation


def stop(actor: Actor) -> MasterKeyRotation:
    """Stop the running rotation after the present batch. RotationError if none runs."""
    with transaction.atomic():
        rotation = MasterKeyRotation.objects.select_for_update().filter(state=RotationState.RUNNING).first()
        if rotation is None:
            raise RotationError("no rotation of the master key is running")
        rotation.state = RotationState.STOPPED
        rotation.save(update_fields=["state"])
        chain.record(actor, "master_key.stop", _subject(rotation))
    return rotation


def rewrap_for(rotation_id: int, seconds: float) -> bool:
    """Rewrap batches for some seconds. Return whether more are left for this caller."""
    end = monotonic() + seconds
    while rewrap_batch(rotation_id):
        if monotonic() > end:
            return True
    return False


def rewrap_batch(rotation_id: int) -> bool:
    """Rewrap one batch, in one transaction. False if nothing is left, it is stopped, or another process works on it.

    MasterKeyError if the master key cannot be used: then nothing was changed.
    """
    for _ in range(_TRIES - 1):
        try:
            with transaction.atomic():
                return _batch(rotation_id)
        except OperationalError as error:
            if not isinstance(error.__cause__, DeadlockDetected):
                raise
    with transaction.atomic():
        return _batch(rotation_id)


def is_overdue(rotation: MasterKeyRotation, now: datetime) -> bool:
    """Return whether it is running, but nobody works on it: its worker was killed, or its task was lost."""
    return rotation.state == RotationState.RUNNING and clock.has_rested(
        rotation.beat_at, timedelta(seconds=OVERDUE_S), now
    )


def claim_overdue(now: datetime) -> MasterKeyRotation | None:
    """Return the overdue rotation for the caller to work on; after that it is not overdue for the same time again."""
    rotation = MasterKeyRotation.objects.filter(state=RotationState.RUNNING).first()
    if rotation is None or not is_overdue(rotation, now):
        return None
    claimed = MasterKeyRotation.objects.filter(pk=rotation.pk, beat_at=rotation.beat_at).update(beat_at=now)
    return rotation if claimed else None


def unreadable(rotation: MasterKeyRotation) -> list[str]:
    """Return the secrets that a finished rotation could not rewrap, each with the reason."""
    return census.verify(not_at=rotation.to_version).faults


def _batch(rotation_id: int) -> bool:
    running = MasterKeyRotation.objects.filter(pk=rotation_id, state=RotationState.RUNNING)
    rotation = running.select_for_update(skip_locked=True).first()
    if rotation is None:
        return False
    master = _keys(rotation)
    keys = census.device_keys(rotation.last_device_key_id, rotation.batch_size, not_at=rotation.to_version)
    if keys:
        _rewrap(rotation, master, keys)
        rotation.last_device_key_id = keys[-1].id
    elif _missed(rotation):
        rotation.last_device_key_id, rotation.unreadable = 0, 0
    else:
        _finish(rotation, master)
    rotation.beat_at = timezone.now()
    rotation.save()
    return rotation.state == RotationState.RUNNING


def _keys(rotation: MasterKeyRotation) -> MasterKeys:
    """Return the master keys, with the target version as the active one."""
    master = master_key.current()
    if master.active_version != rotation.to_version:
        master = master_key.provider().fresh()
    if master.active_version != rotation.to_version:
        raise MasterKeyError(
            f"{master_key.provider()} has version {master.active_version} as the active one, and the rotation goes to "
            f"{rotation.to_version}: is it an old copy?"
        )
    return master


def _rewrap(rotation: MasterKeyRotation, master: MasterKeys, secrets: Sequence[Secret]) -> None:
    """Rewrap secrets of one table by compare-and-set on their octets: a row that changed meanwhile stays."""
    ids, before, after = [], [], []
    for secret in secrets:
        try:
            wrapped = master.rewrap(secret.wrapped, secret.purpose, secret.owner, secret.epoch)
        except UnwrapError as error:
            logger.error("%s is left under master key version %s: %s", secret, secret.version, error)
            rotation.unreadable += 1
        else:
            ids.append(secret.id)
            before.append(secret.wrapped)
            after.append(wrapped)
    if ids:
        rotation.rewrapped += execute(
            f"""UPDATE {secrets[0].table} k SET wrapped = n.after, master_key_version = %s
                FROM unnest(%s::int[], %s::bytea[], %s::bytea[]) AS n(id, before, after)
                WHERE k.id = n.id AND k.wrapped = n.before""",
            rotation.to_version,
            int_array(ids),
            octets_array(before),
            octets_array(after),
        )


def _missed(rotation: MasterKeyRotation) -> bool:
    """Return whether readable device keys are left, because they changed during their batch."""
    left = sum(count.device_keys for count in census.census() if count.version != rotation.to_version)
    return left > rotation.unreadable


def _finish(rotation: MasterKeyRotation, master: MasterKeys) -> None:
    others = census.other_secrets(not_at=rotation.to_version)
    for _, secrets in groupby(others, key=lambda secret: secret.table):
        _rewrap(rotation, master, list(secrets))
    rotation.state = RotationState.FINISHED
    rotation.finished_at = timezone.now()
    left = f", {rotation.unreadable} left unreadable" if rotation.unreadable else ""
    result = f"finished: {rotation.rewrapped} rewrapped{left}"
    chain.record(chain.command_actor(), "master_key.rotate", _subject(rotation), result)


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and not 1 <= batch_size <= BATCH_SIZE_MAX:
        raise RotationError(f"a batch of {batch_size} is not 1 to {BATCH_SIZE_MAX}")


def _left_behind() -> int | None:
    """Return the active version if an interrupted ``begin`` made it and committed no rotation to it."""
    active = master_key.provider().fresh().active_version
    if active == 1 or MasterKeyRotation.objects.filter(to_version=active).exists():
        return None
    return active if any(count.version < active for count in census.census()) else None


def _subject(rotation: MasterKeyRotation) -> dict[str, int]:
    return {
        "rotation": rotation.pk,
        "to_version": rotation.to_version,
        "secrets": rotation.total,
        "rewrapped": rotation.rewrapped,
        "unreadable": rotation.unreadable,
    }
