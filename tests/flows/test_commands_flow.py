"""Commands over a live stack: new keys, readings, resends and clocks, while everything on the way goes wrong."""

import secrets
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest
from concentrators.models import Command, CommandKind, CommandState
from concentrators.simulator.concentrator import Options
from concentrators.simulator.factory import Factory
from concentrators.simulator.loads import RunRequest, make_plan, parse_schemes
from concentrators.simulator.misbehaviour_kinds import parse_rates
from concentrators.simulator.obedience import Fault
from concentrators.simulator.production import Production
from concentrators.simulator.registration import register
from concentrators.simulator.run import Run
from concentrators.simulator.spool import Spool
from concentrators.simulator.truth import compare, wait_until_verified
from keyvault.models import DeviceKey
from meters.models import Meter
from tests.flows.stack import Stack, stack_of, wait_for

pytestmark = pytest.mark.timeout(300)
METERS = 12
FAULTS = {Fault.LOSE: 0.15, Fault.DELAY: 0.15, Fault.REPEAT: 0.15, Fault.REFUSE: 0.1, Fault.LOSE_ANSWER: 0.15}


stack = stack_of("web", "worker", environ={"COMMAND_RETRY_S": "1"})


def test_commands_reach_their_meters_whatever_is_lost(stack: Stack, tmp_path: Path) -> None:
    now = timezone.now()
    wish = RunRequest(
        concentrators=2,
        meters=METERS,
        days=1,
        interval_minutes=[1],
        endless=True,
        rates=parse_rates("all=0.01"),
        schemes=parse_schemes("all"),
    )
    plan, load = make_plan(wish, now)
    plan = replace(plan, enrolled_every=0)  # all have keys that can be renewed
    plan.faults.update({fault.value: rate for fault, rate in FAULTS.items()})
    secret = secrets.token_bytes(32)
    spool = Spool(tmp_path)
    entered = register(plan, secret)
    factory = Factory(plan, secret, bytes.fromhex(entered.head_end))
    options = Options(stack.base_url, batch_frames=2000, commands_every_s=0.6, delay_s=2.5)
    run = Run(plan, Production(plan, load, spool, factory), spool, entered.tokens, options)
    obeying = [plan.system_title(number) for number in range(METERS) if plan.takes_commands(number)]
    meters = list(Meter.objects.filter(system_title__in=obeying))
    keys = queue.enqueue_keys(meters, "tester", now)
    start_s = plan.start_s + 3600
    queue.enqueue([CommandRequest(meter, CommandKind.READ_NOW, {}) for meter in meters], "tester", now)
    queue.enqueue(
        [
            CommandRequest(meter, CommandKind.RESEND, {"from_s": start_s, "to_s": start_s + 600})
            for meter in meters
            if meter.pk % 2
        ],
        "tester",
        now,
        now + timedelta(hours=1),
    )
    clocks = queue.enqueue(
        [CommandRequest(meter, CommandKind.SET_CLOCK, {}) for meter in meters if meter.pk % 3], "tester", now
    )
    thread = threading.Thread(target=run.play, args=[lambda _: None])
    thread.start()
    try:
        open_ones = Command.objects.filter(state__in=queue.OPEN).exclude(
            state=CommandState.DELIVERED  # delivered, and the answer was lost: comes again in hours
        )
        wait_for("every command ends", lambda: not open_ones.exists() or not thread.is_alive(), timeout_s=200)
    finally:
        run.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    wait_until_verified(spool, 60, lambda _: None, lambda: False)
    assert compare(plan, load, spool).differences == []
    spool.close()
    ended = set(Command.objects.values_list("state", flat=True))
    assert {CommandState.DONE, CommandState.REFUSED} <= ended <= {"done", "refused", "delivered"}
    for command in keys:
        command.refresh_from_db()
        states = dict(
            DeviceKey.objects.filter(system_title=command.meter.system_title, epoch__gt=0).values_list("epoch", "state")
        )
        done = command.state == CommandState.DONE
        assert states == ({1: "retiring", 2: "active"} if done else {1: "active", 2: "pending"})
    assert Command.objects.filter(attempts__gt=1).exists()
    right = Command.objects.filter(pk__in=[command.pk for command in clocks], state=CommandState.DONE)
    assert right.filter(late_answers__gt=0).count() == right.count() > 0, "a clock was set by a command of unknown age"
