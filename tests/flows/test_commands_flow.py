"""Commands over a live stack: new keys, readings, resends and clocks, while everything on the way goes wrong."""

import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest
from concentrators.conformance.steps import STEPS
from concentrators.fleet import tokens
from concentrators.models import Command, CommandKind, CommandState, ConformanceRun, LaboratoryOffer
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
from tests.factories import ConcentratorFactory
from tests.flows.stack import Stack, stack_of, wait_for
from tests.test_reference_meter import COMPILER, FOLDER

pytestmark = pytest.mark.timeout(300)
METERS = 12
FAULTS = {Fault.LOSE: 0.15, Fault.DELAY: 0.15, Fault.REPEAT: 0.15, Fault.REFUSE: 0.1, Fault.LOSE_ANSWER: 0.15}


# With DEBUG it is no production, where nothing that a laboratory does to uplinks is done.
stack = stack_of("web", "worker", environ={"COMMAND_RETRY_S": "1", "COMMAND_RATE": "1000/minute", "DEBUG": "1"})


def test_commands_reach_their_meters_whatever_is_lost(stack: Stack, tmp_path: Path) -> None:
    now = timezone.now()
    wish = RunRequest(
        concentrators=2,
        meters=METERS,
        days=1,
        interval_minutes=[1],
        endless=True,
        rates=parse_rates("all=0.01"),
        schemes=parse_schemes("ccm,session,mac,hop,sealed"),  # all that say plain values
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
    assert compare(plan, load, spool, factory).differences == []
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


class TestConformance:
    """The reference meter in C, over its own concentrator program, against docs/frame.md."""

    # What the meter is made to do wrong in command.c: right and wrong.
    MISTAKES = (
        ("if (opened.counter < last->counter) return;", ""),
        ("if (!has_heard || !is_young(m, epoch, o->items[3].value)) return LATE;", "(void)is_young; (void)epoch;"),
    )

    @pytest.mark.timeout(480)  # forty-six steps, each of which waits for the meter
    def test_the_reference_meter_passes(self, stack: Stack, tmp_path: Path, settings: Settings) -> None:
        assert conformance(stack, tmp_path, settings, "ccm") == {}

    @pytest.mark.parametrize(("scheme", "alg"), [("session", 11), ("mac", 5)])
    def test_in_other_schemes(self, stack: Stack, tmp_path: Path, settings: Settings, scheme: str, alg: int) -> None:
        steps = "read-now", "the same again", "an older counter", "set clock", "a new key"
        assert conformance(stack, tmp_path, settings, scheme, alg, steps) == {}

    def test_a_wrong_meter_fails_where_it_is_wrong(self, stack: Stack, tmp_path: Path, settings: Settings) -> None:
        source = tmp_path / "source"
        shutil.copytree(FOLDER, source, ignore=shutil.ignore_patterns("build"))
        code = (source / "command.c").read_text()
        for right, wrong in self.MISTAKES:
            assert code.count(right) == 1
            code = code.replace(right, wrong)
        (source / "command.c").write_text(code)
        steps = "read-now", "an unknown kind", "an older counter", "set clock of three items", "the same again"
        failed = conformance(stack, tmp_path, settings, "ccm", 10, steps, source, silence_s=20)
        assert failed == {
            "an older counter": "it answers octets that it has to drop silently",
            "set clock of three items": "it answers done, where it has to answer too late",
        }
        [run] = ConformanceRun.objects.filter(meter__is_laboratory=True).order_by("-pk")[:1]
        assert (run.finished_at is not None, run.steps.filter(verdict="passed").count()) == (True, 3)


def conformance(
    stack: Stack,
    folder: Path,
    settings: Settings,
    scheme: str,
    alg: int = 10,
    steps: Sequence[str] = (),
    source: Path = FOLDER,
    silence_s: float = 1.5,
) -> dict[str, str]:
    """What failed in a conformance run of the reference meter."""
    if COMPILER is None:
        pytest.skip("the reference meter needs a C compiler (Debian: apt install gcc)")
    settings.IS_PRODUCTION = False
    make = ["make", "meter", f"BUILD={folder}", f"CC={COMPILER}"]
    subprocess.run(make, cwd=source, check=True, capture_output=True, timeout=120)
    concentrator = ConcentratorFactory.create(system_title=secrets.token_bytes(8))
    title = secrets.token_bytes(8).hex()
    words = ["--concentrator", concentrator.name, "--scheme", scheme, "--algorithm", str(alg), "--json"]
    shown = io.StringIO()
    call_command("bench_meter", title, *words, stdout=shown)
    (folder / "keys.json").write_text(shown.getvalue())
    carrier = [sys.executable, FOLDER / "host" / "concentrator.py", "--keys", folder / "keys.json"]
    carrier += ["--meter", folder / "meter", "--memory", folder / "meter.nv", "--url", stack.base_url]
    carrier += ["--every", "0.3", "--speed", "200"]
    env = {**os.environ, "TOKEN": tokens.issue(concentrator)}
    with (folder / "concentrator.log").open("w") as log:
        process = subprocess.Popen([*map(str, carrier)], env=env, stdout=log, stderr=log)
    only = [word for step in steps for word in ("--only", step)]
    timing = ["--wait", "60", "--silence", str(silence_s), "--poll", "0.2", "--hold", "4", "--json"]
    told = io.StringIO()
    try:
        with suppress(SystemExit):
            call_command("conform", title, *timing, *only, stdout=told, stderr=io.StringIO())
        assert process.poll() is None, (folder / "concentrator.log").read_text()
    finally:
        process.terminate()
        process.wait(20)
    found = json.loads(told.getvalue())["steps"]
    assert len(found) == len(steps or STEPS)
    assert not LaboratoryOffer.objects.exists()
    return {step["name"]: step["detail"] for step in found if step["verdict"] != "passed"}
