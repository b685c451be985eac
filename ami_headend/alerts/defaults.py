"""The rules that every new head-end has. Operators may change any of them or switch it off."""

from collections.abc import Callable, Collection
from typing import Any

from django.utils import timezone

from ami_headend.alerts.models import Condition
from ami_headend.alerts.parameters import ESSENTIAL, RESERVES, TOGETHER
from concentrators.failures.kinds import FailureKind, Severity
from meters.readings.obis import FRAUD_LOG

_HOUR, _DAY, _WEEK = 60, 1_440, 10_080
_C, _K = Condition, FailureKind

# name, condition, selector, threshold, period in minutes, severity, quiet time in minutes
RULES = [
    ("Counter used twice", _C.KIND_SEEN, _K.COUNTER_REUSED, 1, _DAY, Severity.CRITICAL, _DAY),
    ("Frames that name another meter", _C.KIND_SEEN, _K.IDENTITY_MISMATCH, 1, _DAY, Severity.CRITICAL, _DAY),
    ("Forged or damaged frames", _C.KIND_SEEN, _K.TAG_INVALID, 50, _HOUR, Severity.CRITICAL, 4 * _HOUR),
    ("Meter tampered with", _C.METER_EVENT, FRAUD_LOG, 1, _DAY, Severity.CRITICAL, _DAY),
    ("Frames that could not be processed", _C.KIND_SEEN, _K.PARKED, 1, _DAY, Severity.CRITICAL, _DAY),
    ("Audit chain broken", _C.AUDIT_BROKEN, "", None, None, Severity.CRITICAL, 4 * _HOUR),
    ("Master key cannot be used", _C.MASTER_KEY_DOWN, "", None, None, Severity.CRITICAL, _HOUR),
    ("Uplinks wait too long", _C.QUEUE_LAG, "", None, 10, Severity.CRITICAL, _HOUR),
    ("Concentrator is silent", _C.SILENT_CONCENTRATOR, "", None, 2 * _HOUR, Severity.WARNING, 12 * _HOUR),
    ("Many frames refused", _C.FAILURE_RATE, "", 10, _HOUR, Severity.WARNING, 4 * _HOUR),
    ("Intervals are missing", _C.COMPLETENESS, "", 98, _DAY, Severity.WARNING, _DAY),
    ("Deadline of readings is missed", _C.READ_DEADLINE, TOGETHER, None, None, Severity.WARNING, _DAY),
    ("Meter is silent", _C.SILENT_METER, "", None, _DAY, Severity.WARNING, _DAY),
    ("Sums do not agree", _C.AGGREGATE_MISMATCH, "", None, 6 * _HOUR, Severity.WARNING, _DAY),
    ("Registers and intervals differ", _C.REGISTERS_DIFFER, "", 1, 30 * _DAY, Severity.WARNING, _WEEK),
    ("Rotation stands still", _C.ROTATION_STALLED, "", None, _HOUR, Severity.WARNING, _DAY),
    ("Backup is overdue", _C.BACKUP_OVERDUE, "", None, 3 * _DAY, Severity.WARNING, _DAY),
    ("Device keys are due for replacement", _C.KEYS_WORN, "", 1_095, None, Severity.WARNING, _WEEK),
    ("Replaced agreement key in use", _C.AGREEMENT_KEY_IN_USE, "", None, 30 * _DAY, Severity.WARNING, _WEEK),
    ("Mask authority does not answer", _C.MASK_AUTHORITY, "", None, 2 * _HOUR, Severity.WARNING, _DAY),
    ("Masked totals are refused", _C.MASKED_REFUSED, "", None, _DAY, Severity.WARNING, _DAY),
    ("Consumer of the feed lags", _C.FEED_LAG, "", None, 6 * _HOUR, Severity.WARNING, _DAY),
    ("Coupon used twice", _C.KIND_SEEN, _K.COUPON_REUSED, 1, _DAY, Severity.CRITICAL, _DAY),
    ("Meter has no coupons", _C.COUPONS_OUT, "", None, 2 * _DAY, Severity.WARNING, _WEEK),
    ("Token of a program expires", _C.API_TOKEN_EXPIRES, "", None, 14 * _DAY, Severity.WARNING, _WEEK),
    ("SIEM is behind", _C.SIEM_BEHIND, "", None, 15, Severity.WARNING, 4 * _HOUR),
    ("Commands wait for a second person", _C.COMMANDS_HELD, "", None, 1, Severity.CRITICAL, _DAY),
    ("Power is out", _C.OUTAGE, "", 3, _DAY, Severity.CRITICAL, 4 * _HOUR),
    ("Component stands still", _C.COMPONENT_DOWN, ESSENTIAL, None, 2, Severity.CRITICAL, _HOUR),
    ("Component is not well", _C.COMPONENT_DOWN, RESERVES, None, 2, Severity.WARNING, 4 * _HOUR),
    ("Authority is about to expire", _C.AUTHORITY_EXPIRES, "", None, 30 * _DAY, Severity.WARNING, _WEEK),
]


def make_rules(apps: Any, schema_editor: Any) -> None:
    """Create these rules unless a rule of the name exists; for ``RunPython``."""
    _make(apps, schema_editor, [rule[0] for rule in RULES])


def making(*names: str) -> Callable[[Any, Any], None]:
    """Return a function that creates the new rules of a release; for ``RunPython``. Deleted rules do not come back."""
    return lambda apps, schema_editor: _make(apps, schema_editor, names)


def _make(apps: Any, schema_editor: Any, names: Collection[str]) -> None:
    rules = apps.get_model("alerts", "Rule").objects.using(schema_editor.connection.alias)
    for name, condition, selector, threshold, period_minutes, severity, quiet_minutes in RULES:
        if name not in names:
            continue
        rules.get_or_create(
            name=name,
            defaults={
                "condition": condition.value,
                "selector": str(selector),
                "threshold": threshold,
                "period_minutes": period_minutes,
                "severity": severity.value,
                "quiet_minutes": quiet_minutes,
            },
        )


def make_first_mark(apps: Any, schema_editor: Any) -> None:
    """Record the present ids, so that earlier failures raise no alert; for ``RunPython``."""
    database = schema_editor.connection.alias
    ends = {
        field: apps.get_model(app, model).objects.using(database).order_by("-pk").values_list("pk", flat=True).first()
        or 0
        for field, app, model in (
            ("failure_id", "concentrators", "IntegrityFailure"),
            ("event_id", "meters", "MeterEvent"),
        )
    }
    apps.get_model("alerts", "StoredMark").objects.using(database).create(at=timezone.now(), **ends)
