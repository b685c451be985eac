"""Door to concentrators.ingest.register_corrections."""

from argparse import ArgumentParser
from typing import Any

from ami_headend.core.commands import DomainCommand
from concentrators.ingest import register_corrections
from concentrators.ingest.register_corrections import RegisterError, RegisterRequest
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.readings.obis import RegisterKind


class Command(DomainCommand):
    help = """Correct the unit, scaler or kind that a register has in the catalogue: frames that were refused as
registry_mismatch are judged again. Audited.

Refused where a reading or an event stands on the register: then it could not be read any more. What is left out stays;
bounds keep their meaning. Verification waits while the readings are looked through.

Examples:
  manage.py correct_register 1-0:5.8.0 --unit varh --reason "Wh was a slip; the maker's list says varh"
  manage.py correct_register 1-0:32.7.0 --scaler -2 --reason "model B measures in 10 mV"
"""

    refusals = (RegisterError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("obis_code", metavar="OBIS", help="A-B:C.D.E, such as 1-0:1.8.0")
        parser.add_argument("--kind", choices=[kind.value for kind in RegisterKind])
        parser.add_argument("--unit", help="SenML unit (RFC 8428, RFC 8798), such as Wh")
        parser.add_argument("--scaler", type=int, metavar="N", help="one step is 10^N units")
        parser.add_argument("--reason", required=True, help="how that is known")

    def handle(self, *args: Any, **options: Any) -> None:
        kind = RegisterKind(options["kind"]) if options["kind"] else None
        wish = RegisterRequest(options["reason"], kind, options["unit"], options["scaler"])
        register = register_corrections.find(options["obis_code"])
        register = register_corrections.correct(register, wish, chain.command_actor())
        self.stdout.write(
            f"{register} is of kind {register.kind}, in steps of 1e{register.scaler} {register.unit}. Frames that wait "
            "for it are judged again by the workers."
        )
