"""A security event, and what makes one of each kind of row. Pure: rows are any objects with those attributes."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core.text import counted
from concentrators.failures.kinds import FailureKind, Severity

# Severities of syslog (RFC 5424 section 6.2.1).
CRITICAL, WARNING, NOTICE, INFORMATIONAL = 2, 4, 5, 6
_OF_ALERTS = {Severity.INFO: NOTICE, Severity.WARNING: WARNING, Severity.CRITICAL: CRITICAL}
_HOUR_S = 3600
# Outcomes of a sign-in that say nothing of an attack.
_USUAL = frozenset({"signed_in", "provider"})


class Event(NamedTuple):
    """What happened, for any format. ``id`` is the same each time the same event is sent.

    ``kind`` names the source, ``act`` what was done or found, ``outcome`` how it ended; ``source`` is an address or
    host, if one is known; ``details`` are further names and texts.
    """

    id: str
    kind: str
    at: datetime
    severity: int
    act: str
    actor: str
    source: str
    outcome: str
    text: str
    details: Mapping[str, str]


def of_audit(row: Any) -> Event:
    """Return the event of a record of the audit chain."""
    subject = json.dumps(row.subject, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return Event(
        id=f"audit-{row.number}-{bytes(row.mac).hex()[:16]}",
        kind="audit",
        at=row.at,
        severity=NOTICE,
        act=row.act,
        actor=row.actor,
        source=row.source,
        outcome=row.result,
        text=f"{row.actor} did {row.act}: {row.result}",
        details={"number": str(row.number), "subject": subject},
    )


def of_alert(row: Any) -> Event:
    """Return the event of a step of an alert."""
    alert, rule = row.alert, row.alert.rule
    return Event(
        id=f"alert-{alert.pk}-{row.pk}",
        kind="alert",
        at=row.at,
        severity=_OF_ALERTS[Severity(alert.severity)],
        act=rule.condition,
        actor=row.actor,
        source="",
        outcome=row.step,
        text=f"{rule.name}: {alert.summary}",
        details={"alert": str(alert.pk), "subject": alert.subject, "note": row.note},
    )


def of_sign_in(row: Any) -> Event:
    """Return the event of attempts to sign in: of one account, address, outcome and hour, as many as there are now."""
    name = row.account or "an account that is not there"
    return Event(
        id=f"sign-in-{row.pk}-{row.attempts}",
        kind="sign-in",
        at=row.last_at,
        severity=INFORMATIONAL if row.outcome in _USUAL else WARNING,
        act="sign-in",
        actor=row.account,
        source=row.address,
        outcome=row.outcome,
        text=f"{name}: {row.get_outcome_display()}, {counted(row.attempts, 'time')} this hour",
        details={"attempts": str(row.attempts), "first_at": row.first_at.isoformat()},
    )


def of_rejected(row: Any) -> Event:
    """Return the event of rejected frames: of one concentrator, kind and hour, as many as there are now."""
    kind, began_s = FailureKind(row.kind), int(row.hour.timestamp())
    return Event(
        id=f"rejected-{row.concentrator_id}-{row.kind}-{began_s}-{row.failures}",
        kind="rejected",
        at=row.hour,
        severity=_OF_ALERTS[kind.severity],
        act=row.kind,
        actor=row.concentrator.name,
        source="",
        outcome="rejected",
        text=f"{counted(row.failures, 'rejected frame')} of concentrator {row.concentrator.name}: {kind.label}",
        details={"frames": str(row.failures), "hour": row.hour.isoformat(), "seconds": str(_HOUR_S)},
    )
