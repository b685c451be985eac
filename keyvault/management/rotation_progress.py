"""The master key on a terminal: its status, and the progress of a rotation."""

import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone
from rich.console import Console

from ami_headend.core.commands import bars
from ami_headend.core.text import counted
from keyvault import master_key
from keyvault.device_keys import inventory
from keyvault.master_key import census, rewrap
from keyvault.master_key.census import Verification
from keyvault.models import MasterKeyRotation, RotationState

FINISHED = RotationState.FINISHED
_POLL_S = 0.5
_BUSY_S = 0.2


def status() -> dict[str, Any]:
    """Return the versions with the secrets under each, and the present or last rotation."""
    rotation = inventory.rotation()
    return {
        "place": str(master_key.provider()),
        "versions": [
            {
                "version": version.number,
                "state": str(version.state),
                "created_at": version.created_at,
                "decrypt_only_at": version.decrypt_only_at,
                "destroyed_at": version.destroyed_at,
                "device_keys": version.secrets.device_keys,
                "fleet_keys": version.secrets.fleet_keys,
                "audit_keys": version.secrets.audit_keys,
                "signing_secrets": version.secrets.signing_secrets,
                "agreement_keys": version.secrets.agreement_keys,
            }
            for version in inventory.versions(census.census())
        ],
        "rotation": None if rotation is None else _rotation(rotation),
    }


def told(found: dict[str, Any]) -> str:
    """Format the status as lines for people."""
    lines = [f"Master key in {found['place']}"]
    for row in found["versions"]:
        dates = " ".join(
            f"{word} {row[name]:%Y-%m-%d %H:%M}"
            for name, word in (("created_at", "made"), ("decrypt_only_at", "replaced"), ("destroyed_at", "destroyed"))
            if row[name] is not None
        )
        lines.append(
            f"  version {row['version']}: {row['state']}, {counted(row['device_keys'], 'device key')}, "
            f"{counted(row['fleet_keys'], 'fleet key')}, {counted(row['audit_keys'], 'audit key')}, "
            f"{counted(row['signing_secrets'], 'signing secret')}, {counted(row['agreement_keys'], 'agreement key')}"
            + (f" ({dates} UTC)" if dates else "")
        )
    rotation = found["rotation"]
    if rotation is not None:
        left = rotation["seconds_left"]
        lines.append(
            f"Rotation to version {rotation['to_version']}: {rotation['state']}, {rotation['rewrapped']} of "
            f"{rotation['secrets']} rewrapped, {rotation['unreadable']} unreadable"
            + (f", about {left} s left" if left is not None else "")
        )
    return "\n".join(lines)


def work(rotation: MasterKeyRotation) -> None:
    """Rewrap in this process until the rotation is finished or stopped, with progress."""

    def step() -> None:
        if not rewrap.rewrap_batch(rotation.pk):
            time.sleep(_BUSY_S)  # finished, stopped, or a worker does it

    _follow(rotation, step, "Interrupted here. The workers go on with it; stop it with rotate --stop.")


def watch(rotation: MasterKeyRotation) -> None:
    """Show the workers' progress until the rotation is finished or stopped."""
    _follow(rotation, lambda: time.sleep(_POLL_S), "The workers go on with it; stop it with rotate --stop.")


def verify() -> Verification:
    """Open every secret, with progress."""
    with bars() as progress:
        return census.verify(progress.step("opening", sum(count.secrets for count in census.census())))


def _follow(rotation: MasterKeyRotation, step: Callable[[], None], interrupted: str) -> None:
    warned = False
    shown = 0
    try:
        with bars() as progress:
            advance = progress.step(f"rewrapping to version {rotation.to_version}", rotation.total)
            while rotation.state == RotationState.RUNNING:
                step()
                rotation.refresh_from_db()
                done = rotation.rewrapped + rotation.unreadable
                advance(done - shown)
                shown = done
                if not warned and rewrap.is_overdue(rotation, timezone.now()):
                    Console(stderr=True).print("No worker takes it up: start one, or rotate --resume --here.")
                    warned = True
    except KeyboardInterrupt:
        Console(stderr=True).print(interrupted)


def _rotation(rotation: MasterKeyRotation) -> dict[str, Any]:
    """Format the progress of a rotation, with an estimate of the time left."""
    return {
        "to_version": rotation.to_version,
        "state": rotation.state,
        "secrets": rotation.total,
        "rewrapped": rotation.rewrapped,
        "unreadable": rotation.unreadable,
        "seconds_left": inventory.seconds_left(rotation),
        "started_at": rotation.started_at,
        "beat_at": rotation.beat_at,
        "finished_at": rotation.finished_at,
    }
