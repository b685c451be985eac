"""A web host evaluates the rules and sends their messages while no worker does.

Without workers, beat or Redis nobody would be told otherwise that they are lacking.
"""

import logging
import threading
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connections
from django.db.models import Max
from django.utils import timezone

from ami_headend.alerts import delivery, evaluation
from ami_headend.alerts.models import Rule
from ami_headend.core import clock
from ami_headend.core.database_errors import trouble_of
from ami_headend.health import components

logger = logging.getLogger(__name__)

_ASK_S = 5.0
_DELIVER_S = 10.0  # for one channel, then the next one has its turn


class StandIn(threading.Thread):
    """Asks from time to time whether rules were evaluated lately, and evaluates them if not.

    First it waits as long as it leaves workers time, so that those which start beside it come first.
    """

    def __init__(self) -> None:
        super().__init__(name="stand-in", daemon=True)
        self._ours: datetime | None = None
        self._never = threading.Event()

    def run(self) -> None:
        self._never.wait(settings.ALERT_STAND_IN_AFTER_S)
        while True:
            try:
                self.step(timezone.now())
            except Exception as error:
                if trouble_of(error) is None:
                    logger.exception("this host could not stand in for the workers")
            finally:
                connections.close_all()
            self._never.wait(min(_ASK_S, settings.ALERT_EVALUATE_EVERY_S))

    def step(self, now: datetime) -> None:
        """Do the work of workers if it is due."""
        rules, latest = _rules()
        if not rules or not is_due(latest, self._ours, now):
            self._ours = self._ours if latest == self._ours else None
            return
        if self._ours is None:
            logger.warning("no worker evaluates the rules of alerts: this web host does")
        stand_in(now)
        self._ours = _rules()[1]


def is_due(latest: datetime | None, ours: datetime | None, now: datetime) -> bool:
    """Whether a web host is to evaluate: nobody has for long, or it did so last and the next time has come."""
    is_ours = latest is not None and latest == ours
    seconds = settings.ALERT_EVALUATE_EVERY_S if is_ours else settings.ALERT_STAND_IN_AFTER_S
    return clock.has_rested(latest, timedelta(seconds=seconds), now)


def stand_in(now: datetime) -> None:
    """Check the components, evaluate the rules that are due, and send their messages."""
    components.look()
    evaluation.evaluate(now)
    for channel in delivery.write_due(now):
        delivery.deliver_for(channel, _DELIVER_S)


def _rules() -> tuple[int, datetime | None]:
    """Return how many rules are enabled, and when one of them was evaluated last."""
    enabled = Rule.objects.filter(is_enabled=True)
    return enabled.count(), enabled.aggregate(at=Max("evaluated_at"))["at"]
