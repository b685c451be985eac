"""A conformance run: begun or resumed, step by step, each verdict stored as it comes."""

from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from concentrators.conformance import offers
from concentrators.conformance.bench import Bench, MismatchError
from concentrators.conformance.steps import STEPS, LeftOutError, Step
from concentrators.fleet.assignments import holding
from concentrators.fleet.laboratory import LaboratoryError, check_allowed
from concentrators.models import ConformanceRun, ConformanceStep, StepVerdict
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.bench import BenchKeyError
from meters.models import Meter

_DETAIL_LENGTH = 250

Tell = Callable[[Step, StepVerdict, str], None]


def begin(meter: Meter, actor: Actor, now: datetime, *, anew: bool = False) -> ConformanceRun:
    """The unfinished run of a meter, or with ``anew`` or where there is none a new one; a new one is audited.

    LaboratoryError in production, where the meter is none of a laboratory, or no concentrator carries its frames.
    """
    check_allowed()
    if not meter.is_laboratory:
        raise LaboratoryError(f"{meter} is no laboratory meter: manage.py bench_meter makes one")
    if not holding(now).filter(meter=meter).exists():
        raise LaboratoryError(f"{meter} is assigned to no concentrator")
    with transaction.atomic():
        standing = ConformanceRun.objects.select_for_update().filter(meter=meter, finished_at=None).first()
        if standing is not None and not anew:
            return standing
        if standing is not None:
            finish(standing, now)
        run = ConformanceRun.objects.create(meter=meter, started_by=actor.name, started_at=now)
        subject = {"device": bytes(meter.system_title).hex(), "run": run.pk}
        chain.record(actor, "laboratory.conform", subject)
    return run


def go_on(run: ConformanceRun, bench: Bench, tell: Tell, steps: Sequence[Step] = STEPS) -> None:
    """Try the steps of a run that have no verdict yet, one after another, and finish the run.

    Whatever interrupts it, nothing more is offered to the meter afterwards; the step at hand is tried again then.
    LaboratoryError where the meter has not answered another command: it would drop older octets of the run.
    """
    if under_way := bench.open_commands():
        raise LaboratoryError(
            f"{run.meter} has not answered command {under_way[0]} yet: have it answered, or cancel it; then go on"
        )
    done = set(run.steps.values_list("name", flat=True))
    try:
        for step in steps:
            if step.name in done:
                continue
            verdict, detail = _verdict(step, bench)
            ConformanceStep.objects.create(
                run=run, name=step.name, verdict=verdict, detail=detail[:_DETAIL_LENGTH], ended_at=timezone.now()
            )
            tell(step, verdict, detail)
    finally:
        offers.withdraw(run.meter)
    finish(run, timezone.now())


def finish(run: ConformanceRun, now: datetime) -> None:
    """End a run."""
    run.finished_at = now
    run.save(update_fields=["finished_at"])


def _verdict(step: Step, bench: Bench) -> tuple[StepVerdict, str]:
    try:
        step.try_(bench)
    except MismatchError as mismatch:
        return StepVerdict.FAILED, str(mismatch)
    except (LeftOutError, BenchKeyError) as lack:
        return StepVerdict.LEFT_OUT, str(lack)
    return StepVerdict.PASSED, ""
