"""The push profiles of a run: most are there from the start, one comes after frames have waited for it."""

import time
from collections.abc import Callable
from contextlib import suppress

from ami_headend.core.broker_errors import BROKER_ERRORS
from ami_headend.core.text import counted
from concentrators import tasks
from concentrators.failures.kinds import FailureKind
from concentrators.models import IntegrityFailure, Uplink
from concentrators.simulator.notifications import PushForm, forms, late_form
from concentrators.simulator.plan import Plan
from concentrators.simulator.spool import Spool
from keyvault.audit.chain import Actor
from meters.models import PushProfile
from meters.readings import push_profiles
from meters.readings.push_profiles import ProfileWish

_ACTOR = Actor("simulator", "manage.py simulate")
_RUN_OCTETS = 5  # of a title: those that all meters of a run have
_LOOK_EVERY_S = 0.5
_KIND = FailureKind.UNKNOWN_PROFILE.value


class StillWaitingError(Exception):
    """Frames wait for a push profile that is registered."""


def register_forms(plan: Plan) -> None:
    """Register the profiles of all forms but the late one."""
    for form in forms(plan.system_title(0), plan.start_s):
        _register(plan, form)


def retire_forms(plan: Plan) -> None:
    """Retire the profiles of a run that is over."""
    for name in PushProfile.objects.filter(name__startswith=_prefix(plan), retired_at=None).values_list(
        "name", flat=True
    ):
        push_profiles.retire(name, None, _ACTOR)


class LateProfile:
    """Registers the late profile of a run once a frame waits for it; what was seen then is a fact of the run."""

    def __init__(self, plan: Plan, spool: Spool) -> None:
        self._plan, self._spool = plan, spool
        self._titles = [plan.system_title(n) for n in range(len(plan.meters)) if plan.waits_for_profile(n)]
        self._looked_at = 0.0

    def look(self) -> None:
        """Register the profile if it is due; cheap to call often."""
        if not self._titles or time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        if not self._spool.fact("late_said") or self._spool.fact("late_profile") is not None:
            return
        waiting = IntegrityFailure.objects.filter(kind=_KIND, meter__system_title__in=self._titles).count()
        if waiting:
            _register(self._plan, late_form(self._plan.start_s))
            self._spool.set_facts(late_profile=waiting)
            _judge_again()

    def wait_until_read(self, patience_s: float, stop: Callable[[], bool]) -> None:
        """Wait until the frames that waited for the profile were judged again; workers are asked for it often.

        StillWaitingError if their number does not fall for ``patience_s``.
        """
        if not self._spool.fact("late_said"):
            return
        expected = sum(verdicts.get(_KIND, 0) for _, _, verdicts in self._spool.posted())
        fewest, moved_at = None, time.monotonic()
        while not stop():
            self.look()
            waiting = self._waiting() - expected
            if waiting <= 0 and self._spool.fact("late_profile") is not None:
                return
            if fewest is None or waiting < fewest:
                fewest, moved_at = waiting, time.monotonic()
            elif time.monotonic() - moved_at > patience_s:
                raise StillWaitingError(
                    f"{counted(waiting, 'frame waits', 'frames wait')} for a push profile, and none was read for "
                    f"{patience_s:.0f} s"
                )
            _judge_again()
            time.sleep(_LOOK_EVERY_S)

    def _waiting(self) -> int:
        """How many frames of the run wait for a push profile, now that all are verified."""
        ids = [uplink for _, uplink, _ in self._spool.posted()]
        rows = Uplink.objects.filter(pk__in=ids, waiting__gt=0).values_list("failures", flat=True)
        return sum(failures.get(_KIND, 0) for failures in rows)


def _register(plan: Plan, form: PushForm) -> None:
    title = plan.system_title(0)
    wish = ProfileWish(_prefix(plan) + form.name, title[:_RUN_OCTETS], form.definition, form.sample, title)
    push_profiles.add(wish, _ACTOR)


def _judge_again() -> None:
    with suppress(*BROKER_ERRORS):  # then beat has it done, somewhat later
        tasks.enqueue_waiting()


def _prefix(plan: Plan) -> str:
    return f"sim-{plan.run} "
