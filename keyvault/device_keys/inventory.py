"""The inventory of keys: versions of the master key with the secrets under each, its rotation, and device keys."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings

from ami_headend.core.sql import fetch_rows, int_array
from keyvault import master_key
from keyvault.device_keys.epochs import WORN
from keyvault.device_keys.last_heard import HIGHEST, LAST_OF_KEY
from keyvault.master_key import MasterKeyState, rewrap
from keyvault.master_key.census import Count
from keyvault.models import DeviceKey, KeyState, MasterKeyRotation, RotationState
from keyvault.schemes.table import CONCENTRATOR, algorithm_name

MISSING = "missing"


class VersionStanding(NamedTuple):
    """A version of the master key, and the secrets under it. ``state`` is ``missing`` if its key is not found."""

    number: int
    state: MasterKeyState | str
    secrets: Count
    created_at: datetime | None
    decrypt_only_at: datetime | None
    destroyed_at: datetime | None

    @property
    def destroyable_at(self) -> datetime | None:
        """Return the time from which it may be destroyed."""
        if self.state != MasterKeyState.DECRYPT_ONLY or self.decrypt_only_at is None:
            return None
        return self.decrypt_only_at + timedelta(days=settings.MASTER_KEY_DESTROY_AFTER_DAYS)


class DeviceKeys(NamedTuple):
    """Keys of devices from epoch 1 on, counted by epoch and state; transfer keys (epoch 0) apart, by state."""

    by_epoch: dict[int, dict[str, int]]
    transfer: dict[str, int]

    @property
    def by_state(self) -> dict[str, int]:
        return {state.value: sum(states.get(state, 0) for states in self.by_epoch.values()) for state in KeyState}


class NotableKey(NamedTuple):
    """A device key that needs attention, and why; ``highest`` is its highest counter."""

    key_id: int
    system_title: bytes
    epoch: int
    state: KeyState
    since: datetime
    highest: int


class Notable(NamedTuple):
    """Some of the keys of a kind, and how many there are."""

    number: int
    listed: list[NotableKey]


def versions(counts: Iterable[Count]) -> list[VersionStanding]:
    """Return every version that is known or has secrets under it, lowest first; ``counts`` is a census.

    MasterKeyError if the provider of the master key does not answer.
    """
    under = {count.version: count for count in counts}
    known = {version.number: version for version in master_key.provider().versions()}
    found = []
    for number in sorted({*under, *known}):
        secrets, version = under.get(number, Count(number, 0, 0, 0, 0, 0)), known.get(number)
        if version is None:
            found.append(VersionStanding(number, MISSING, secrets, None, None, None))
        else:
            times = (version.created_at, version.decrypt_only_at, version.destroyed_at)
            found.append(VersionStanding(number, version.state, secrets, *times))
    return found


def rotation() -> MasterKeyRotation | None:
    """Return the rotation in progress, else the last one."""
    return rewrap.current() or MasterKeyRotation.objects.order_by("-pk").first()


def seconds_left(row: MasterKeyRotation) -> int | None:
    """Estimate how many seconds a rotation still takes, at its rate so far; None if that is unknown."""
    done = row.rewrapped + row.unreadable
    if row.state != RotationState.RUNNING or not done:
        return None
    elapsed = (row.beat_at - row.started_at).total_seconds()
    return round(elapsed / done * max(0, row.total - done))


def device_keys() -> DeviceKeys:
    """Count keys by epoch and state; reads every key."""
    by_epoch: dict[int, dict[str, int]] = {}
    for epoch, state, number in fetch_rows(
        "SELECT epoch, state, count(*) FROM keyvault_devicekey GROUP BY epoch, state ORDER BY epoch"
    ):
        by_epoch.setdefault(epoch, {})[state] = number
    return DeviceKeys(by_epoch, by_epoch.pop(0, {}))


def by_use() -> list[tuple[str, str, str, int]]:
    """Count keys by state, purpose (transfer or frames) and source; reads every key."""
    return fetch_rows(
        """SELECT state, CASE WHEN epoch = 0 THEN 'transfer' ELSE 'frames' END AS purpose, source, count(*)
           FROM keyvault_devicekey GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
    )


def are_there_from_before(at: datetime) -> bool:
    """Return whether any key was made before a time."""
    return DeviceKey.objects.filter(created_at__lt=at).exists()


def of_device(system_title: bytes) -> list[dict[str, Any]]:
    """List the keys of a device as text and times, the newest first, with the last frame under each; no octets."""
    rows = fetch_rows(
        f"""SELECT k.epoch, k.state, k.scheme, k.algorithm, k.source, k.fingerprint, {HIGHEST}, h.heard_at, h.heard_via
           FROM keyvault_devicekey k LEFT JOIN keyvault_invocationcounter c ON c.key_id = k.id
           {LAST_OF_KEY.format(key="k.id")}
           WHERE k.system_title = %s ORDER BY k.epoch DESC""",
        system_title,
    )
    return [
        {
            "epoch": epoch,
            "use": "transfer key" if epoch == 0 else "device key",
            "state": state,
            "scheme": scheme,
            "algorithm": algorithm_name(algorithm),
            "source": source,
            "fingerprint": None if name is None else name.hex(),
            "counter": None if highest is None or highest < 0 else highest,
            "heard_at": heard_at,
            "heard_via": heard_via,
        }
        for epoch, state, scheme, algorithm, source, name, highest, heard_at, heard_via in rows
    ]


def counters(key_ids: Collection[int]) -> dict[int, tuple[int | None, datetime | None]]:
    """Return, by key id, the highest counter and the time of the last accepted frame; None if there was none."""
    rows = fetch_rows(
        f"""SELECT c.key_id, nullif({HIGHEST}, -1), h.heard_at
            FROM keyvault_invocationcounter c {LAST_OF_KEY.format(key="c.key_id")}
            WHERE c.key_id = ANY(%s::int[])""",
        int_array(key_ids),
    )
    return {key_id: (highest, heard_at) for key_id, highest, heard_at in rows}


def of_concentrators(titles: Collection[bytes]) -> dict[bytes, str]:
    """Return system titles that no meter can have, because a concentrator has keys under them, with the reason.

    One query. The concentrator need not have its title yet: its keys may come first.
    """
    keys = DeviceKey.objects.filter(system_title__in=titles, scheme=CONCENTRATOR).values_list("system_title", flat=True)
    return {bytes(title): f"has keys of scheme {CONCENTRATOR}: it is a concentrator's" for title in keys}


def overdue(now: datetime, limit: int) -> Notable:
    """List keys that have not arrived: pending for longer than a command is valid, the oldest first.

    Such a meter needs another command, or a visit.
    """
    return _notable(
        "k.state = 'pending' AND k.created_at < %s",
        "k.created_at",
        now - _lifetime(),
        order="k.created_at",
        limit=limit,
    )


def without_successor(limit: int) -> Notable:
    """List compromised keys of devices that have no other: no frame of such a device is accepted."""
    condition = """k.state = 'compromised' AND k.epoch > 0 AND NOT EXISTS (
        SELECT 1 FROM keyvault_devicekey o WHERE o.system_title = k.system_title AND o.epoch > 0
        AND (o.state IN ('active', 'pending') OR o.epoch > k.epoch))"""
    return _notable(condition, "k.created_at", order="k.id", limit=limit)


def near_budget(limit: int) -> Notable:
    """List active keys near their safe number of frames (setting KEY_ROTATE_AT_COUNTER), the nearest first."""
    return _notable(
        WORN,
        "coalesce(k.activated_at, k.created_at)",
        settings.KEY_ROTATE_AT_COUNTER,
        order=f"{HIGHEST} DESC",
        limit=limit,
    )


def _lifetime() -> timedelta:
    return timedelta(seconds=settings.COMMAND_EXPIRES_S)


def _notable(condition: str, since: str, *arguments: object, order: str, limit: int) -> Notable:
    rows = fetch_rows(
        f"""SELECT k.id, k.system_title, k.epoch, k.state, {since}, coalesce({HIGHEST}, -1), count(*) OVER ()
            FROM keyvault_devicekey k LEFT JOIN keyvault_invocationcounter c ON c.key_id = k.id
            WHERE {condition} ORDER BY {order} LIMIT %s""",
        *arguments,
        limit,
    )
    listed = [
        NotableKey(key_id, title, epoch, KeyState(state), at, highest)
        for key_id, title, epoch, state, at, highest, _ in rows
    ]
    return Notable(rows[0][-1] if rows else 0, listed)
