"""Corrections by a person of a register with a wrong unit, scaler or kind, before readings of it are stored.

Frames that do not fit the entry wait (``registry_mismatch``). If a reading or an event is stored under it already, the
entry was right for the meter that sent it, and says how to read the value: then it cannot be corrected.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction

from ami_headend.core.sql import fetch_rows
from ami_headend.core.text import NOTE_LENGTH, is_note
from concentrators.totals import totals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.models import Register
from meters.readings.obis import STANDARD_REGISTERS, RegisterKind

_STANDARD = frozenset(one.obis_code for one in STANDARD_REGISTERS)


class RegisterError(ValueError):
    """A correction that is impossible: the caller's mistake, named in the message."""


class RegisterRequest(NamedTuple):
    """The new entry of a register; None keeps the present value. ``scaler``: one step is 10^scaler units."""

    reason: str
    kind: RegisterKind | None = None
    unit: str | None = None
    scaler: int | None = None


def find(obis_code: str) -> Register:
    """Return the register of a code; RegisterError if there is none."""
    register = Register.objects.filter(obis_code=obis_code).first()
    if register is None:
        raise RegisterError(f"there is no register {obis_code[:24]!r}")
    return register


def correct(register: Register, wish: RegisterRequest, actor: Actor) -> Register:
    """Correct the entry of a register; frames that wait for it are judged again. Its bounds keep their meaning.

    Verification waits while it searches for readings, through the whole table if there are none. RegisterError;
    AuditError or MasterKeyError if it cannot be recorded: then nothing was changed.
    """
    if not is_note(wish.reason):
        raise RegisterError(f"a reason says how it is known, in 1 to {NOTE_LENGTH:,} characters")
    with transaction.atomic():
        totals.lock()  # every verification holds it shared before it reads the catalogue
        register = Register.objects.select_for_update().get(pk=register.pk)
        before = _told(register)
        _enter(register, wish)
        if _told(register) == before:
            raise RegisterError(f"register {register.obis_code} says that already")
        _check_unused(register)
        register.save()
        subject = {"register": register.obis_code, "before": before, "after": _told(register), "reason": wish.reason}
        chain.record(actor, "register.correct", subject)
    return register


def _enter(register: Register, wish: RegisterRequest) -> None:
    if wish.kind is not None and wish.kind != register.kind:
        if register.obis_code in _STANDARD:
            raise RegisterError(f"register {register.obis_code} is of the standard catalogue: its kind stays")
        register.kind = wish.kind.value
    if wish.unit is not None:
        register.unit = wish.unit
    if wish.scaler is not None:
        finer = register.scaler - wish.scaler
        register.minimum = _in_steps(register.minimum, finer, ROUND_CEILING)
        register.maximum = _in_steps(register.maximum, finer, ROUND_FLOOR)
        register.scaler = wish.scaler
    try:
        register.full_clean()
    except ValidationError as error:
        raise RegisterError("; ".join(error.messages)) from None


def _in_steps(bound: int | None, finer: int, rounding: str) -> int | None:
    """Convert a bound to other steps, 10^finer for each old one; None if no stored value can exceed it."""
    if bound is None:
        return None
    steps = int(Decimal(bound).scaleb(max(-40, min(40, finer))).to_integral_value(rounding))
    return steps if -(2**63) <= steps < 2**63 else None


def _check_unused(register: Register) -> None:
    stands = fetch_rows(
        """SELECT EXISTS (SELECT FROM meters_meterevent WHERE register_id = %s)
               OR EXISTS (SELECT FROM meters_reading WHERE register_id = %s)
               OR EXISTS (SELECT FROM meters_maskedreading WHERE register_id = %s)
               OR EXISTS (SELECT FROM meters_archivedmonth WHERE registers ? %s::text)""",
        register.pk,
        register.pk,
        register.pk,
        register.pk,
    )[0][0]
    if stands:
        raise RegisterError(
            f"what meters said stands on register {register.obis_code} already, and could not be read any more: its "
            "unit, scaler and kind stay. A meter that says it otherwise needs other firmware"
        )


def _told(register: Register) -> dict[str, str | int]:
    return {"kind": str(register.kind), "unit": register.unit, "scaler": register.scaler}
