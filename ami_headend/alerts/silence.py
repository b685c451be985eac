"""When a concentrator is silent: one rule for the alert, the console and the metrics."""

from datetime import datetime, timedelta
from typing import Any

from ami_headend.alerts.models import Condition, Rule

_WITHOUT_A_RULE = timedelta(hours=2)

# Of a concentrator ``c`` and ``h.received_at``, its last uplink: it is active and has not posted for the period; one
# that never did is silent only where it has meters. Takes ``params``.
LAST_POSTED = """LEFT JOIN LATERAL (SELECT received_at FROM concentrators_uplink WHERE concentrator_id = c.id
                 ORDER BY received_at DESC LIMIT 1) h ON true"""
IS_SILENT = """(c.is_active AND coalesce(h.received_at, c.created_at) < %s
    AND (h.received_at IS NOT NULL OR EXISTS (
        SELECT 1 FROM concentrators_assignment a WHERE a.concentrator_id = c.id
        AND a.valid_from <= %s AND (a.valid_to IS NULL OR a.valid_to > %s))))"""


def params(since: datetime, now: datetime) -> tuple[Any, ...]:
    """The values of IS_SILENT."""
    return since, now, now


def silent_after() -> timedelta:
    """How long a concentrator may be silent: as the rule of its alert says; of several that are on, the strictest."""
    rules = Rule.objects.filter(condition=Condition.SILENT_CONCENTRATOR, is_enabled=True)
    minutes = rules.order_by("period_minutes").values_list("period_minutes", flat=True).first()
    return _WITHOUT_A_RULE if minutes is None else timedelta(minutes=minutes)
