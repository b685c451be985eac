"""manage.py register: the catalogue of registers that readings may name."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError
from meters.models import Register
from meters.readings.obis import ObisError, RegisterKind, parse_obis
from meters.registry import changes

_NONE = "none"


class Command(DomainCommand):
    refusals = (AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."
    help = (
        "List, add and bound the registers that readings may name. Frames that wait for a register, or for wider "
        "bounds, are judged again by the workers."
    )
    examples = (
        "examples:\n"
        "  manage.py register list\n"
        '  manage.py register add 1-0:5.8.0 --kind cumulative --unit varh --name "Reactive energy, quadrant 1"\n'
        "  manage.py register bounds 1-0:1.29.0 --minimum 0 --maximum 50000\n\n"
        "A register cannot be changed except its name (on its page) and its bounds, because readings depend on it. "
        "Until\nthe first reading comes, manage.py correct_register corrects a wrong entry."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        acts.add_parser("list", help="all registers with their bounds")
        add = acts.add_parser("add", help="add a register")
        bounds = acts.add_parser("bounds", help="set which values are plausible; a bound that is left out is unchanged")
        for one in (add, bounds):
            one.add_argument("obis_code", metavar="OBIS", help="A-B:C.D.E, such as 1-0:1.8.0")
            one.add_argument("--minimum", type=_bound, metavar="STEPS", help="lowest plausible value, or none")
            one.add_argument("--maximum", type=_bound, metavar="STEPS", help="highest plausible value, or none")
        add.add_argument("--kind", required=True, choices=[kind.value for kind in RegisterKind])
        add.add_argument("--unit", required=True, help="SenML unit (RFC 8428, RFC 8798), such as Wh")
        add.add_argument("--scaler", type=int, default=0, metavar="N", help="one step is 10^N units (0)")
        add.add_argument("--name", required=True, help="what people call it")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["act"] == "list":
            for row in Register.objects.order_by("obis_code"):
                low, high = ("-" if bound is None else bound for bound in (row.minimum, row.maximum))
                self.stdout.write(
                    f"{row.obis_code:14} {row.kind:13} {row.unit:6} 1e{row.scaler:<3} {low} to {high}  {row.name}"
                )
            return
        given = {name: options[name] for name in ("minimum", "maximum") if options[name] is not None}
        bounds = {name: None if bound == _NONE else bound for name, bound in given.items()}
        if options["act"] == "add":
            register = self._added(options, bounds)
            said = f"{register} is in the catalogue. Frames that wait for it"
        else:
            register = self._bounded(options["obis_code"], bounds)
            said = f"The bounds of {register} are set. Frames that wait for wider ones"
        self.stdout.write(f"{said} are judged again by the workers.")

    def _added(self, options: dict[str, Any], bounds: dict[str, Any]) -> Register:
        try:
            code = str(parse_obis(options["obis_code"]))
        except ObisError as error:
            raise CommandError(str(error)) from None
        if Register.objects.filter(obis_code=code).exists():
            raise CommandError(f"there is a register {code} already")
        given = {name: options[name] for name in ("kind", "unit", "scaler", "name")}
        register = _checked(Register(obis_code=code, **given, **bounds))
        changes.add(command_actor(), register)
        return register

    def _bounded(self, code: str, bounds: dict[str, Any]) -> Register:
        register = Register.objects.filter(obis_code=code).first()
        if register is None:
            raise CommandError(f"there is no register {code[:24]}")
        for name, bound in bounds.items():
            setattr(register, name, bound)
        changes.change(command_actor(), _checked(register), list(bounds))
        return register


def _bound(text: str) -> int | str:
    return _NONE if text == _NONE else int(text)


def _checked(register: Register) -> Register:
    try:
        register.full_clean()
    except ValidationError as error:
        raise CommandError("; ".join(error.messages)) from None
    return register
