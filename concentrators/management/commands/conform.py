"""manage.py conform: what a laboratory meter does with commands, against docs/frame.md."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from concentrators.conformance import run as runs
from concentrators.conformance.bench import Bench, Timing
from concentrators.conformance.steps import STEPS, Step
from concentrators.fleet.laboratory import LaboratoryError
from concentrators.models import StepVerdict
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.registry.lookup import RegistryError, find_meter

_FAILED, _INTERRUPTED = 2, 130


class Command(DomainCommand):
    help = (
        "Give a laboratory meter commands over its concentrator, right ones and repeated, delayed, damaged, old and "
        "misshapen ones, and compare what it does with docs/frame.md. The head-end and the concentrator must run. "
        "Interrupted (Ctrl-C), the run is resumed where it was by the same command. It gives the meter new keys."
    )
    examples = (
        "examples:\n"
        "  manage.py conform 0024befffe804ff1               some 20 minutes, most of them waiting\n"
        "  manage.py conform 0024befffe804ff1 --hold 0      without the 11 minutes of a clock that is held back\n"
        "  manage.py conform 0024befffe804ff1 --anew --json\n"
        "  manage.py conform --list                         the steps, without a meter\n\n"
        "exit status: 0 all steps passed or were left out; 1 it could not be run; 2 a step failed; 130 interrupted."
    )
    refusals = (LaboratoryError, RegistryError, AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        usual = Timing()
        parser.add_argument("title", nargs="?", metavar="TITLE", help="system title, 16 hex digits")
        parser.add_argument("--list", action="store_true", help="list the steps, and do nothing")
        parser.add_argument("--anew", action="store_true", help="begin a new run, even if one is unfinished")
        parser.add_argument("--only", action="append", metavar="STEP", help="this step alone, in a new run; repeatable")
        parser.add_argument("--json", action="store_true", help="for programs, at the end")
        for name, of, seconds in (
            ("wait", "wait for an answer", usual.answer_s),
            ("silence", "wait for an answer that must not come", usual.silence_s),
            ("hold", "hold a set clock command back; 0: leave that out", usual.hold_s),
            ("poll", "look for frames", usual.poll_s),
        ):
            parser.add_argument(
                f"--{name}", type=float, default=seconds, metavar="S", help=f"seconds to {of} ({seconds:g})"
            )

    def handle(self, *args: Any, title: str | None, **options: Any) -> None:
        if options["list"]:
            self.stdout.write("\n".join(f"{step.name:42}the meter {step.rule}" for step in STEPS))
            return
        if title is None:
            raise LaboratoryError("name the meter by its system title")
        meter = find_meter(title)
        chosen = _chosen(options["only"])
        run = runs.begin(meter, chain.command_actor(), timezone.now(), anew=options["anew"] or chosen is not STEPS)
        timing = Timing(options["wait"], options["silence"], options["poll"], options["hold"])
        try:
            runs.go_on(run, Bench(meter, timing), self._tell, chosen)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted. The same command goes on with the step at hand.")
            sys.exit(_INTERRUPTED)
        self._conclude(run, as_json=options["json"])

    def _tell(self, step: Step, verdict: StepVerdict, detail: str) -> None:
        because = f": {detail}" if detail else ""
        rule = f"  (the meter {step.rule})" if verdict is StepVerdict.FAILED else ""
        self.stderr.write(f"{verdict.label.lower():9} {step.name}{because}{rule}")

    def _conclude(self, run: Any, *, as_json: bool) -> None:
        rows = list(run.steps.order_by("pk").values("name", "verdict", "detail"))
        counted = Counter(row["verdict"] for row in rows)
        if as_json:
            self.write_json({"run": run.pk, "meter": bytes(run.meter.system_title).hex(), "steps": rows})
        else:
            self.stdout.write(", ".join(f"{counted[one]} {one.label.lower()}" for one in StepVerdict))
        if counted[StepVerdict.FAILED]:
            sys.exit(_FAILED)


def _chosen(names: list[str] | None) -> Sequence[Step]:
    """The steps of those names; all where none is named. LaboratoryError for a name that no step has."""
    unknown = set(names or ()) - {step.name for step in STEPS}
    if unknown:
        raise LaboratoryError(f"there is no step {min(unknown)!r}: conform --list names them")
    return STEPS if names is None else [step for step in STEPS if step.name in names]
