"""Conditions about keys: rotations, worn keys, authorities, the audit chain, the master key."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings

from ami_headend.alerts.conditions.finding import NOTHING, SUBJECTS_KEPT, SUBJECTS_MAX, Finding, Findings, few, within
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core.sql import fetch_rows, int_array
from ami_headend.core.text import counted
from concentrators.models import WaveState
from keyvault import master_key
from keyvault.audit import witness
from keyvault.audit.chain import AuditError, Head
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.epochs import TO_BE_REPLACED
from keyvault.enrolment.expiry import expiring
from keyvault.master_key import MasterKeyError, rewrap
from keyvault.models import RotationState
from meters.models import MeterStatus


def rotation_stalled(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find a stalled rotation of the master key, and waves that stopped after failures or make no progress."""
    since = now - timedelta(minutes=rule.period_minutes or 0)
    found = []
    rotation = rewrap.current()
    if rotation is not None and rotation.beat_at < since:
        state = "was stopped" if rotation.state == RotationState.STOPPED else "has stalled"
        summary = (
            f"the rotation to master key version {rotation.to_version} {state} at {rotation.rewrapped:,} of "
            f"{counted(rotation.total, 'secret')}, since {rotation.beat_at:%Y-%m-%d %H:%M} UTC"
        )
        found.append(Finding(SubjectKind.MASTER_KEY, rotation.pk, f"to version {rotation.to_version}", summary))
    rows = fetch_rows(
        """SELECT w.id, w.name, w.state FROM concentrators_rotationwave w
           WHERE w.state = %s OR (w.state = %s AND w.created_at < %s
               AND EXISTS (SELECT 1 FROM concentrators_wavemeter m WHERE m.wave_id = w.id AND m.command_id IS NULL)
               AND NOT EXISTS (SELECT 1 FROM concentrators_wavemeter m
                               JOIN concentrators_command c ON c.id = m.command_id
                               WHERE m.wave_id = w.id AND c.created_at >= %s))
           ORDER BY w.id LIMIT %s""",
        WaveState.STOPPED.value,
        WaveState.RUNNING.value,
        since,
        since,
        SUBJECTS_MAX,
    )
    for wave_id, name, state in rows:
        why = "its failure budget is used up" if state == WaveState.STOPPED else "no more key commands were queued"
        found.append(Finding(SubjectKind.WAVE, wave_id, name, f"the rotation wave {name} has stalled: {why}"))
    return few(found)


def keys_worn(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find meters in service whose active key is too old or has too many frames, and that have no next key yet."""
    scope, ids = within(rule, meter="m.id")
    rows = fetch_rows(
        f"""SELECT m.id, m.serial_number, k.highest, k.since, count(*) OVER ()
           FROM ({TO_BE_REPLACED}) k JOIN meters_meter m ON m.system_title = k.system_title AND m.status = %s
               AND {scope}
           ORDER BY m.id = ANY(%s::int[]) DESC, k.highest DESC, m.id LIMIT %s""",
        settings.KEY_ROTATE_AT_COUNTER,
        now - timedelta(days=rule.threshold or 0),
        MeterStatus.COMMISSIONED.value,
        *ids,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    listed = [
        Finding(SubjectKind.METER, meter_id, serial, f"key in use since {since:%Y-%m-%d}, frame counter at {highest:,}")
        for meter_id, serial, highest, since, _ in rows
    ]
    return Findings(rows[0][-1] if rows else 0, listed)


def agreement_key_in_use(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Versions of agreement keys that were replaced for the period, and that meters still send under keys of."""
    since = now - timedelta(minutes=rule.period_minutes or 0)
    return few(
        [
            Finding(
                SubjectKind.AGREEMENT_KEY,
                use.key.pk,
                str(use.key)[:120],
                f"replaced since {use.key.replaced_at:%Y-%m-%d}, and "
                f"{counted(use.meters, 'meter still sends', 'meters still send')} under its keys",
                subjects=use.meters,
            )
            for use in agreement_keys.standings()
            if use.meters and use.key.replaced_at is not None and use.key.replaced_at <= since
        ]
    )


def authority_expires(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find pinned authorities that expire within the period, or have expired while meters may still enrol."""
    found = []
    for row in expiring(now + timedelta(minutes=rule.period_minutes or 0), now):
        assert row.expires_at is not None  # noqa: S101 - for the types alone
        verb = "expires" if row.expires_at > now else "expired"
        summary = (
            f"it {verb} at {row.expires_at:%Y-%m-%d %H:%M} UTC: no meter enrols with its certificates from then on"
        )
        found.append(Finding(SubjectKind.AUTHORITY, row.pk, row.issuer, summary))
    return few(found)


def audit_broken(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether a record of the audit chain was changed or removed; reads the whole chain.

    The chain is compared with the key journal of this worker's host and with the head that the rule saw last, so a
    chain whose end was cut off is found too.
    """
    kept = rule.marks.get("head")
    try:
        head = witness.verify(Head(kept["number"], bytes.fromhex(kept["mac"])) if kept else None).head
    except AuditError as error:
        return few([Finding(SubjectKind.FLEET, 0, "audit chain", str(error)[:200])])
    rule.marks["head"] = {"number": head.number, "mac": head.mac.hex()}
    return NOTHING


def master_key_down(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find whether the worker that evaluates this rule cannot use the master key."""
    try:
        master_key.probe()
    except MasterKeyError as error:
        return few([Finding(SubjectKind.MASTER_KEY, 0, "master key", str(error)[:200])])
    return NOTHING
