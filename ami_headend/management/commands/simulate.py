"""manage.py simulate: meters and concentrators over real HTTP, and a comparison with what they sent."""

import logging
import secrets
import shutil
import signal
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone
from rich.console import Console

from ami_headend.core.broker_errors import BROKER_ERRORS
from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from concentrators import tasks
from concentrators.models import Uplink
from concentrators.simulator import display, mask_authorities
from concentrators.simulator.closing_report import Closing
from concentrators.simulator.concentrator import COMPRESSIONS, Options, RefusedError
from concentrators.simulator.factory import Factory
from concentrators.simulator.loads import PlanError, RunRequest, left_out, load_of, make_plan, parse_schemes
from concentrators.simulator.mask_authorities import MadeAuthority, MaskAuthorityFailedError
from concentrators.simulator.misbehaviour_kinds import Misbehaviour, RatesError, parse_faults, parse_rates
from concentrators.simulator.obedience import Fault
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.production import Production
from concentrators.simulator.push_registration import LateProfile, StillWaitingError, retire_forms
from concentrators.simulator.recorded_loads import RecordedError
from concentrators.simulator.registration import is_registered, pin_masks, register, withdraw_masks
from concentrators.simulator.run import Run, RunProgress
from concentrators.simulator.sealers import METER_SCHEMES
from concentrators.simulator.spool import Spool, SpoolError
from concentrators.simulator.truth import StalledError, compare, wait_until_verified
from keyvault.device_keys.errors import ProvisioningError
from keyvault.masking import pinned
from keyvault.master_key import MasterKeyError

DEFAULT_URL = "http://127.0.0.1:8000"
DIFFERS = 3
STOPPED = 130
_PATIENCE_S = 300.0
_START_S = 60.0
_WORKERS = 2
_DEMO_METERS, _DEMO_DAYS, _DEMO_INTERVALS, _DEMO_RATES = 300, 1, [1, 5, 15], "all=0.001,late=0.005,reorder=0.01"
_USAGE_ERRORS = (PlanError, RecordedError, RatesError, SpoolError)
_HEAD_END_ERRORS = (
    RefusedError,
    StalledError,
    StillWaitingError,
    MasterKeyError,
    ProvisioningError,
    MaskAuthorityFailedError,
)


class Command(DomainCommand):
    help = (
        "Simulate meters and concentrators over real HTTP, then compare the head-end's data with what was sent. "
        "Starts its own services if nothing is configured and nothing runs."
    )
    examples = (
        "examples:\n"
        "  manage.py simulate\n"
        "      100 simulated households, 7 days of them, over 3 concentrators, as fast as it goes\n"
        "  manage.py simulate --readings readings.csv.gz --days 60 --misbehave all\n"
        "      recorded households (header meter,timestamp,wh), shifted by whole weeks to end now; all goes wrong\n"
        "  manage.py simulate --meters 1000 --days 1 --misbehave replay=0.01,bit_flip=0.02 --compress zstd\n"
        "  manage.py simulate --schemes ccm,mac=2,session --misbehave all\n"
        "      a mixed fleet: of each four meters two send in frames of scheme mac; docs/schemes.md tells them apart\n"
        "  manage.py simulate --speed 600 --state sim/\n"
        "      stop it, or kill it, and run it again to go on where it was\n\n"
        f"schemes: {', '.join(METER_SCHEMES)}\n"
        f"misbehaviours: {', '.join(Misbehaviour)}\n"
        f"faults of commands: {', '.join(Fault)}\n\n"
        f"exit status: 0 all equals the truth; 1 the run could not be made; {DIFFERS} it differs; {STOPPED} stopped\n"
        "early. Ctrl-C once stops the meters, posts what they sent and compares; twice stops at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        load = parser.add_argument_group("load")
        load.add_argument("--readings", type=Path, metavar="FILE", help="CSV, gzipped or not, instead of households")
        load.add_argument("--as-recorded", action="store_true", help="do not shift the times of the file")
        load.add_argument("--days", type=_positive, metavar="N", help="the last N days of each meter (7; a file: all)")
        load.add_argument("--meters", type=_positive, metavar="N", help="how many meters (100; a file: all)")
        load.add_argument("--concentrators", type=_positive, default=3, metavar="N", help="how many (3)")
        load.add_argument("--interval-minutes", type=_minutes, metavar="N,..", help="households' interval lengths (30)")
        load.add_argument("--seed", type=int, default=1, help="households and misbehaviour follow from it (1)")
        load.add_argument("--schemes", metavar="LIST", help="all, or name=weight,... of the meters in turn (ccm)")
        load.add_argument("--misbehave", metavar="RATES", help="all, or name=rate,... per genuine frame; see below")
        load.add_argument("--command-faults", metavar="RATES", help="name=rate,... per command; see below")
        run = parser.add_argument_group("run")
        run.add_argument("--url", help=f"the head-end ({DEFAULT_URL})")
        run.add_argument("--speed", type=_speed, metavar="X", help="factor of real time, or max (max)")
        run.add_argument("--batch", type=_positive, default=1000, metavar="N", help="frames in an uplink (1000)")
        run.add_argument("--compress", choices=COMPRESSIONS, default="none", help="encoding of the uplinks (none)")
        run.add_argument("--state", type=Path, metavar="DIR", help="folder of the run; an existing run continues")
        run.add_argument("--demo", action="store_true", help="endless: one day at once, then real time, few attackers")

    def handle(self, *args: Any, **options: Any) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs a line for every request
        try:
            with ExitStack() as stack:
                code = self._handle(options, stack)
        except (*_USAGE_ERRORS, *_HEAD_END_ERRORS) as error:
            raise CommandError(str(error)) from None
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database cannot be used ({reason}): try manage.py doctor.") from None
        except KeyboardInterrupt:
            code = STOPPED
        if code:
            sys.exit(code)

    def _handle(self, options: dict[str, Any], stack: ExitStack) -> int:
        """Plan, find a head-end, register, run, compare; return the exit status."""
        console = Console(soft_wrap=True, highlight=False)
        wish = _wish(options)
        folder = options["state"] or (settings.VAR_DIR / "simulator" / "demo" if options["demo"] else None)
        earlier = _earlier(folder)
        plan, load = earlier or make_plan(wish, timezone.now())
        _say_left_out(wish, console)
        url = _head_end(options, console, stack)
        if folder is not None and earlier is not None and not is_registered(plan):
            if not options["demo"]:
                raise CommandError(
                    f"The run in {folder} belongs to another database: name another folder with --state."
                )
            Spool.discard(folder)
            plan, load = make_plan(wish, timezone.now())
        folder = folder or settings.VAR_DIR / "simulator" / plan.run
        spool = Spool(folder)
        stack.callback(spool.close)
        _enter(plan, spool, folder)
        console.print(
            f"Run {plan.run}: {counted(len(plan.meters), 'meter')}, "
            f"{counted(plan.concentrators, 'concentrator')}, state in {folder}"
        )
        endless = plan.end_s is None
        _wake(spool)
        made = [MadeAuthority(*one) for one in spool.fact("masks") or []]
        authorities = stack.enter_context(mask_authorities.running(made)) if made else None
        publics = [bytes.fromhex(one.mask_public) for one in made]
        factory = Factory(
            plan, bytes.fromhex(spool.fact("secret")), bytes.fromhex(spool.fact("head_end") or ""), publics
        )
        production = Production(plan, load, spool, factory, spread=endless)
        post_by = Options(url, options["batch"], options["compress"])
        run = Run(plan, production, spool, spool.fact("tokens"), post_by, options["speed"])
        late = LateProfile(plan, spool)
        stopped = f"Stopped. To continue: manage.py simulate --state {folder}"
        with _signals(run) as quit_now:
            if not _play(run, plan, console, late) or (not endless and not _verified(spool, console, quit_now, late)):
                console.print(stopped)
                return STOPPED
        if endless:
            return 0
        closing = _compared(plan, load, spool, factory, authorities, console)
        if closing is None:
            console.print(stopped)
            return STOPPED
        display.print_closing(closing, console)
        if closing.differences:
            return DIFFERS
        if options["state"] is None:
            withdraw_masks(plan, made)
            retire_forms(plan)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return 0


def _wish(options: dict[str, Any]) -> RunRequest:
    """Turn the options into a run request; CommandError or RatesError before anything is touched."""
    demo, readings = options["demo"], options["readings"]
    if readings is None and options["as_recorded"]:
        raise CommandError("--as-recorded needs --readings.")
    if readings is not None and (demo or options["interval_minutes"]):
        raise CommandError("--readings cannot be combined with --demo or --interval-minutes: a file has 30 minutes.")
    if options["batch"] > settings.UPLINK_MAX_FRAMES:
        raise CommandError(f"--batch: an uplink has at most {settings.UPLINK_MAX_FRAMES} frames.")
    rates = options["misbehave"] if options["misbehave"] is not None else _DEMO_RATES if demo else ""
    return RunRequest(
        concentrators=options["concentrators"],
        meters=options["meters"] or (_DEMO_METERS if demo else None),
        days=options["days"] or (_DEMO_DAYS if demo else None),
        seed=options["seed"],
        interval_minutes=options["interval_minutes"] or (_DEMO_INTERVALS if demo else [30]),
        rates=parse_rates(rates),
        faults=parse_faults(options["command_faults"] or ""),
        schemes=parse_schemes(options["schemes"] if options["schemes"] is not None else "all" if demo else "ccm"),
        readings=readings,
        as_recorded=options["as_recorded"],
        endless=demo,
        outage=demo,
        enrols=not settings.REQUIRE_APPROVAL,  # pinning the run's authority would need a second person
        gap_runs=settings.COUNTER_GAP_RUNS,
        sessions=settings.SESSIONS_KEPT,
        retention_days=settings.RETENTION_DAYS,
    )


def _say_left_out(wish: RunRequest, console: Console) -> None:
    if out := left_out(wish):
        console.print(
            f"No meters of {', '.join(out)}: pinning their authority takes a second person's approval here "
            "(REQUIRE_APPROVAL)."
        )


def _earlier(folder: Path | None) -> tuple[Plan, Load] | None:
    """Return the run in a folder, if there is one."""
    if folder is None or not (folder / Spool.FILE).exists():
        return None
    spool = Spool(folder)
    try:
        fact = spool.fact("plan")
    finally:
        spool.close()
    if fact is None:
        return None
    plan = Plan.from_fact(fact)
    return plan, load_of(plan)


def _enter(plan: Plan, spool: Spool, folder: Path) -> None:
    """Register a new run with the head-end, and store what is needed to continue it."""
    if spool.fact("plan") is None:
        secret = secrets.token_bytes(32)
        entered = register(plan, secret)
        masks = _make_masks(plan, secret, folder) if plan.masked else []
        spool.set_facts(**entered._asdict(), secret=secret.hex(), plan=plan.as_fact(), masks=masks)


def _wake(spool: Spool) -> None:
    """Have the workers go on with what an earlier process of this run posted: their tasks may be lost with Redis."""
    posted = [uplink for _, uplink, _ in spool.posted()]
    for uplink_id in Uplink.objects.filter(pk__in=posted, verified_at=None).order_by("pk").values_list("pk")[:_WORKERS]:
        with suppress(*BROKER_ERRORS):  # then the sweep does, later
            tasks.enqueue(uplink_id[0])


def _make_masks(plan: Plan, secret: bytes, folder: Path) -> list[MadeAuthority]:
    """Make the run's mask authorities, which take its meters, and pin them."""
    now = timezone.now()
    factory = Factory(plan, secret)
    certificates = [factory.mask_certificate(number, int(now.timestamp())) for number in plan.masked]
    certifier = plan.authority, factory.authority().public_key().public_bytes_raw()
    made = mask_authorities.make(folder, certifier, pinned.requester(now).public, certificates, plan.start_s)
    pin_masks(plan, made)
    return made


def _head_end(options: dict[str, Any], console: Console, stack: ExitStack) -> str:
    """Return the address of a head-end that answers; start our own if nothing is configured or runs."""
    if not options["url"] and settings.IS_EMBEDDED:
        from ami_headend.local import embedded  # noqa: PLC0415 - of the extra `local`
        from ami_headend.local import stack as local  # noqa: PLC0415

        if not embedded.running(settings.VAR_DIR):
            console.print("Nothing is configured and nothing runs: starting a head-end for this run.")
            try:
                return stack.enter_context(local.head_end(_answers, _START_S))
            except (embedded.EmbeddedError, local.LocalStackError) as error:
                raise CommandError(str(error)) from None
    url: str = options["url"] or DEFAULT_URL
    deadline = time.monotonic() + (_START_S if options["demo"] else 0)
    while not (answers := _answers(url)) and time.monotonic() < deadline:
        time.sleep(0.3)
    if not answers:
        raise CommandError(
            f"No head-end answers at {url}: start one with manage.py up, or name another address with --url."
        )
    return url


def _answers(url: str) -> bool:
    try:
        httpx.get(f"{url.rstrip('/')}/health/live", timeout=5)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise CommandError(f"--url {url}: {error}") from None
    except httpx.TransportError:
        return False
    return True


@contextmanager
def _signals(run: Run) -> Iterator[threading.Event]:
    """Stop the meters at the first Ctrl-C, everything at the second (or at SIGTERM): then the event is set."""
    quit_now = threading.Event()

    def interrupt(signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGTERM or run.stop.is_set():
            run.give_up.set()
            quit_now.set()
        run.stop.set()

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield quit_now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(run: Run, plan: Plan, console: Console, late: LateProfile) -> bool:
    """Run to the end, with progress bars if there is an end; True if everything was posted."""
    if plan.ticks is None:
        return run.play(lambda _: late.look())
    with display.progress(console) as progress:
        measured = progress.add_task("intervals measured", total=plan.ticks, note="")
        posted = progress.add_task("frames posted", total=None, note="")

        def look(standing: RunProgress) -> None:
            late.look()
            note = f"{counted(standing.repeats, 'request')} repeated" if standing.repeats else ""
            progress.update(measured, completed=standing.ticks)
            progress.update(posted, completed=standing.posted, total=standing.handed_over, note=note)

        return run.play(look)


def _compared(
    plan: Plan,
    load: Load,
    spool: Spool,
    factory: Factory,
    authorities: mask_authorities.RunningAuthorities | None,
    console: Console,
) -> Closing | None:
    """Compare, with a progress bar for each thing that is compared; None if the user interrupted."""
    try:
        with display.progress(console) as bars:
            return compare(plan, load, spool, factory, authorities, display.Bars(bars).look)
    except KeyboardInterrupt:
        return None


def _verified(spool: Spool, console: Console, quit_now: threading.Event, late: LateProfile) -> bool:
    """Wait for the verdicts; False if the user interrupted."""
    with console.status("Waiting for the verdicts") as status:
        wait_until_verified(
            spool, _PATIENCE_S, lambda left: status.update(f"Waiting for {counted(left, 'uplink')}"), quit_now.is_set
        )
        status.update("Waiting for frames that a push profile came late for")
        late.wait_until_read(_PATIENCE_S, quit_now.is_set)
    return not quit_now.is_set()


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 1_000_000:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1,000,000")
    return int(text)


def _minutes(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0
    if not 0 < speed < float("inf"):
        raise ArgumentTypeError(f"{text!r} is neither a number above 0 nor max")
    return speed
