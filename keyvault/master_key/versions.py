"""Acts of people on versions of the master key: make the first one, destroy an old one. Audited."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction

from ami_headend.core.text import counted
from keyvault import approvals, backups, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.master_key import MasterKeyError, MasterKeyState, Version, census
from keyvault.master_key.rotation_lock import changing_versions

_NAMED = 5


class DestroyError(Exception):
    """A version that must not be destroyed, or not yet; the message says why."""


def make_first(actor: Actor) -> tuple[int, bool]:
    """Make version 1. Return it, and whether the audit chain has it: before the first migration there is no chain.

    MasterKeyError if there is a version, or the database has secrets, which need another one; or if the record of it
    is refused, which needs the key itself: then the message says that the version was made.
    """
    try:
        with transaction.atomic():
            standing = sum(count.secrets for count in census.census())
    except DatabaseError:
        return master_key.provider().init(), False
    if standing:
        raise MasterKeyError(
            f"the database holds {counted(standing, 'secret')} under a master key: put that one back at "
            f"{master_key.provider()}"
        )
    version = master_key.provider().init()
    try:
        with transaction.atomic():
            chain.record(actor, "master_key.init", {"version": version, "place": str(master_key.provider())})
    except (MasterKeyError, chain.AuditError) as error:
        raise MasterKeyError(
            f"version {version} was made in {master_key.provider()}, and is the one to keep; only its record is "
            f"missing in the audit chain: {error}"
        ) from None
    return version, True


def destroy(number: int, actor: Actor, now: datetime) -> None:
    """Destroy an old version for good. DestroyError if a secret needs it, it is active, or it is too early.

    The chain has a record before and after, so that it shows an interruption. ApprovalError if an approval is required
    and none is valid; the first record uses it up.
    """
    subject = approval_subject(number)
    with changing_versions():
        _check(number, now)
        spent = approvals.use(approvals.DESTROY, subject, now)
        chain.record(actor, approvals.DESTROY, {**subject, **spent}, "begun")
    with changing_versions():
        _check(number, now)
        chain.record(actor, approvals.DESTROY, {**subject, **spent})
        master_key.provider().destroy(number)


def approval_subject(number: int) -> dict[str, Any]:
    """Return what a second person approves: this version, and its provider."""
    return {"version": number, "place": str(master_key.provider())}


def check_destroyable(number: int, now: datetime) -> None:
    """Check that a version may be destroyed now; else DestroyError."""
    with changing_versions():
        _check(number, now)


def _check(number: int, now: datetime) -> None:
    version = next((version for version in master_key.provider().versions() if version.number == number), None)
    if version is None or version.state == MasterKeyState.DESTROYED:
        raise DestroyError(f"there is no version {number} in {master_key.provider()}, or not any more")
    if version.state == MasterKeyState.ACTIVE:
        raise DestroyError(f"version {number} is the active one: rotate first (manage.py master_key rotate)")
    _check_waited(version, now)
    needing = census.count_needing(number)
    if needing:
        raise DestroyError(
            f"{counted(needing, 'secret needs', 'secrets need')} version {number}: go on rewrapping (manage.py "
            "master_key rotate --resume), or see what is wrong (manage.py master_key verify)"
        )
    kept = list(backups.needing(number)[:_NAMED])
    if kept:
        raise DestroyError(
            f"backups that are kept need version {number}: {', '.join(map(str, kept))}. Prune them first "
            "(manage.py backup prune)"
        )


def _check_waited(version: Version, now: datetime) -> None:
    days = settings.MASTER_KEY_DESTROY_AFTER_DAYS
    if version.decrypt_only_at is None:
        raise DestroyError(f"since when version {version.number} is not used for sealing is not known")
    due = version.decrypt_only_at + timedelta(days=days)
    if now < due:
        raise DestroyError(
            f"version {version.number} may be destroyed from {due:%Y-%m-%d %H:%M} UTC on, {days} days after it was "
            "replaced (MASTER_KEY_DESTROY_AFTER_DAYS): a backup from before may need it"
        )
