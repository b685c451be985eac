"""manage.py bench_meter: a meter for the laboratory, whose key is shown once."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from concentrators.fleet import laboratory
from concentrators.fleet.laboratory import BenchMeter, LaboratoryError
from concentrators.fleet.selection import find_concentrator
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import USUAL, SchemeError
from meters.registry.interval_lengths import LONGEST_MINUTES
from meters.registry.lookup import RegistryError, find_meter, parse_system_title


class Command(DomainCommand):
    help = (
        "Make a laboratory meter with a random key, which is printed this once, for whoever writes firmware. "
        "Its concentrator may read why its frames are rejected (GET /api/v1/uplinks/17?reasons=1), and its failures "
        "raise no alerts. Refused in production, and where keys need a second person's approval. With --end a "
        "laboratory meter becomes an ordinary one: its failures raise alerts from then on."
    )
    examples = (
        "examples:\n"
        "  manage.py concentrator add LAB-1\n"
        "  manage.py bench_meter 0024befffe804ff1 --concentrator LAB-1\n"
        "  manage.py bench_meter 0024befffe804ff2 --concentrator LAB-1 --scheme session --interval 15 --json\n"
        "  manage.py bench_meter 0024befffe804ff1 --end\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (LaboratoryError, RegistryError, SchemeError, ProvisioningError, MasterKeyError, AuditError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("title", metavar="TITLE", help="system title, 16 hex digits")
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--concentrator", metavar="NAME", help="make it: concentrator that posts its frames")
        which.add_argument("--end", action="store_true", help="make it an ordinary meter, also in production")
        parser.add_argument("--scheme", default=USUAL, metavar="NAME", help=f"scheme of its frames ({USUAL})")
        parser.add_argument("--algorithm", type=int, metavar="ALG", help="COSE alg of its key (the scheme's usual one)")
        parser.add_argument("--interval", type=int, default=15, metavar="MINUTES", help="length of its intervals (15)")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, title: str, concentrator: str | None, end: bool, json: bool, **options: Any) -> None:
        if concentrator is None:
            meter = find_meter(title)
            laboratory.end(meter, chain.command_actor())
            self.stdout.write(f"{meter} is an ordinary meter now. Give it new keys: people know those that it has.")
            return
        if not 1 <= options["interval"] <= LONGEST_MINUTES:
            raise LaboratoryError(f"an interval has 1 to {LONGEST_MINUTES} minutes, not {options['interval']}")
        system_title = parse_system_title(title)
        found = find_concentrator(concentrator)
        bench = BenchMeter(system_title, found, options["interval"], options["scheme"], options["algorithm"])
        keys = laboratory.make(bench, chain.command_actor(), timezone.now())
        told = {
            "system_title": system_title.hex(),
            "scheme": bench.scheme,
            "epoch": 1,
            "device_key": keys.device_key.hex(),
            "alg": keys.algorithm,
            "transfer_key": keys.transfer_key.hex(),
            "transfer_alg": keys.transfer_algorithm,
            "interval_minutes": bench.interval_minutes,
        }
        if keys.head_end:
            told["head_end_public"] = keys.head_end.hex()
        if json:
            self.write_json(told)
            return
        self.stdout.write("\n".join(f"{name.replace('_', ' '):17}{value}" for name, value in told.items()))
        self.stderr.write("The keys are not shown again.")
