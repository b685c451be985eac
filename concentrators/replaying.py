"""What a restored database has to be told of concentrators and commands from the key journal (keyvault.replay)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from concentrators.models import Concentrator, ConcentratorToken, RotationWave, WaveState
from keyvault.journal.segments import Record
from keyvault.replay import Apply, move_past
from keyvault.sql import execute, fetch_rows


class AccessReplayer:
    """Who was let in and shut out, and the numbers of commands that left."""

    @property
    def kinds(self) -> Mapping[str, Apply]:
        return {
            "concentrator": lambda record: _concentrator(*record.body),
            "token_issued": lambda record: _token_issued(*record.body),
            "token_revoked": lambda record: _token_revoked(*record.body),
            "sealed": _numbers_used,
        }

    def conclude(self, now: datetime) -> list[str]:
        notes = []
        if paused := RotationWave.objects.filter(state=WaveState.RUNNING).update(state=WaveState.PAUSED):
            notes.append(f"{paused} rotation waves are paused: manage.py rotate_device_keys resume --wave N, or cancel")
        meterless = fetch_rows(
            """SELECT count(DISTINCT k.system_title) FROM keyvault_devicekey k
               WHERE NOT EXISTS (SELECT 1 FROM meters_meter m WHERE m.system_title = k.system_title)"""
        )[0][0]
        if meterless:
            notes.append(
                f"{meterless} devices have keys, but no meter: import again what was imported since the backup "
                "(manage.py import_meters), then manage.py verify_again --all-waiting"
            )
        return notes


def _concentrator(number: int, name: str, is_active: bool) -> None:
    """A concentrator as it was saved; one of its name under another id was never committed."""
    for ghost in Concentrator.objects.filter(name=name).exclude(pk=number):
        Concentrator.objects.filter(pk=ghost.pk).update(name=f"{name[:100]} ({ghost.pk})", is_active=False)
    Concentrator.objects.update_or_create(pk=number, defaults={"name": name, "is_active": is_active})
    move_past("concentrators_concentrator", number)


def _token_issued(
    concentrator_id: int, name: str, number: int, digest: bytes, label: str, created_s: int, until_s: int | None
) -> None:
    concentrator = (
        Concentrator.objects.filter(pk=concentrator_id).first() or Concentrator.objects.filter(name=name).first()
    )
    if concentrator is None:
        concentrator = Concentrator.objects.create(pk=concentrator_id, name=name)
        move_past("concentrators_concentrator", concentrator_id)
    defaults: dict[str, Any] = {
        "concentrator": concentrator,
        "label": label,
        "expires_at": None if until_s is None else datetime.fromtimestamp(until_s, UTC),
    }
    move_past("concentrators_concentratortoken", number)
    if not ConcentratorToken.objects.filter(pk=number).exists():
        defaults["pk"] = number
    token, is_new = ConcentratorToken.objects.get_or_create(digest=digest, defaults=defaults)
    if is_new:  # its time of making is set by the model
        ConcentratorToken.objects.filter(pk=token.pk).update(created_at=datetime.fromtimestamp(created_s, UTC))


def _token_revoked(digest: bytes, at_s: int) -> None:
    execute(
        """UPDATE concentrators_concentratortoken SET revoked_at = coalesce(revoked_at, to_timestamp(%s))
           WHERE digest = %s""",
        at_s,
        digest,
    )


def _numbers_used(record: Record) -> None:
    """Meters know these commands by their numbers: no other command may have one of them."""
    move_past("concentrators_command", max(command[0] for command in record.body[1]))
