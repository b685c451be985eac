"""How long a concentrator may be silent: one number for the alert, the console and the metrics, set in its rule."""

from datetime import datetime, timedelta

from ami_headend.alerts.models import Condition, Rule
from concentrators.fleet import health
from concentrators.fleet.health import Health

_WITHOUT_A_RULE = timedelta(hours=2)


def silent_after() -> timedelta:
    """Return the period of the alert's rule; the shortest if several are on."""
    rules = Rule.objects.filter(condition=Condition.SILENT_CONCENTRATOR, is_enabled=True)
    minutes = rules.order_by("period_minutes").values_list("period_minutes", flat=True).first()
    return _WITHOUT_A_RULE if minutes is None else timedelta(minutes=minutes)


def of_concentrators(now: datetime, concentrator_id: int | None = None) -> list[Health]:
    """Return all concentrators by name, or one, and whether each is silent by that number; two queries."""
    return health.of_concentrators(now - silent_after(), now, concentrator_id)
