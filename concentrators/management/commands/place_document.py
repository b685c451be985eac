"""manage.py place_document: the load profiles of a place as Green Button, or as the Nordic market document."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.disk import new_file
from concentrators.feed import place_documents
from concentrators.feed.formats import nordic
from concentrators.feed.place_documents import Wanted
from concentrators.feed.place_series import PeriodError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.models import Place, Register
from meters.readings.obis import RegisterKind


class Command(DomainCommand):
    help = """Write the intervals of a place that begin in a period, across exchanges of its meters (docs/formats.md).

"green-button" is an Atom feed (NAESB ESPI 4.0), "market-document" a NotifyValidatedMeasureData_MarketDocument
(IEC 62325-451). Without --output it goes to the standard output. The export is audited.

Examples:
  manage.py place_document green-button "Mill Lane 4" --from 2026-11-01 --to 2026-12-01 --output mill-lane.xml
  manage.py place_document market-document "Mill Lane 4" --from 2026-11-01 --to 2026-12-01 \\
      --sender 5799999933318 --receiver 5790001330552 --metering-point 579999993331812345
"""
    refusals = (PeriodError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was written."

    def add_arguments(self, parser: ArgumentParser) -> None:
        kinds = parser.add_subparsers(dest="kind", required=True)
        green = kinds.add_parser("green-button", help="an Atom feed")
        market = kinds.add_parser("market-document", help="for a Nordic data hub")
        for one in (green, market):
            one.add_argument("place", metavar="PLACE", help="its name")
            one.add_argument("--from", dest="start", type=time_of, required=True, metavar="TIME")
            one.add_argument("--to", dest="end", type=time_of, required=True, metavar="TIME", help="not included")
            one.add_argument("--register", action="append", metavar="OBIS", help="of intervals; repeatable; else all")
            one.add_argument("--output", type=Path, metavar="FILE", help="a new file")
        for name, role in (("sender", "MDR"), ("receiver", "DGL")):
            market.add_argument(f"--{name}", required=True, metavar="ID")
            market.add_argument(f"--{name}-scheme", choices=nordic.SCHEMES, default="A10")
            market.add_argument(f"--{name}-role", choices=nordic.ROLES, default=role)
        market.add_argument("--metering-point", metavar="ID", help="else the name of the place")
        market.add_argument("--metering-point-scheme", choices=nordic.SCHEMES, default="A10")

    def handle(self, *args: Any, **options: Any) -> None:
        place = Place.objects.filter(name=options["place"]).first()
        if place is None:
            raise CommandError(f"There is no place {options['place'][:120]}.")
        if options["start"] >= options["end"]:
            raise CommandError("--from is not before --to.")
        wanted = Wanted(place, options["start"], options["end"], _registers(options["register"]))
        now = timezone.now()
        if options["kind"] == "green-button":
            parts = place_documents.green_button_feed(wanted, place.name, f"urn:place:{place.pk}", now)
        else:
            parts = place_documents.market_document(wanted, _exchange(place, options), now)
        subject = {"place": place.pk, "kind": options["kind"], "from": wanted.start.isoformat()}
        self._write(parts, options["output"], {**subject, "to": wanted.end.isoformat()})

    def _write(self, parts: Iterable[bytes], output: Path | None, subject: dict[str, Any]) -> None:
        """Write the document; the export is audited once its place is there, and before a part is written."""
        if output is None:
            chain.record(chain.command_actor(), "place.export", subject)
            for part in parts:
                sys.stdout.buffer.write(part)
            return
        try:
            with new_file(output) as file:
                chain.record(chain.command_actor(), "place.export", subject)
                file.writelines(parts)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}.") from None
        self.stdout.write(f"{output}: {output.stat().st_size:,} octets.")


def _registers(codes: Sequence[str] | None) -> list[Register] | None:
    if codes is None:
        return None
    known = {row.obis_code: row for row in Register.objects.filter(obis_code__in=codes, kind=RegisterKind.INTERVAL)}
    for code in codes:
        if code not in known:
            raise CommandError(f"There is no interval register {code[:24]}.")
    return [known[code] for code in sorted(known)]


def _exchange(place: Place, options: dict[str, Any]) -> nordic.Exchange:
    point = options["metering_point"] or place.name
    if len(point) > nordic.POINT_LENGTH:
        raise CommandError(f"Name the point with --metering-point, in at most {nordic.POINT_LENGTH} characters.")
    sender, receiver = _party("sender", options), _party("receiver", options)
    return nordic.Exchange(sender, receiver, point, options["metering_point_scheme"])


def _party(name: str, options: dict[str, Any]) -> nordic.Party:
    if not 0 < len(options[name]) <= nordic.PARTY_LENGTH:
        raise CommandError(f"--{name} has 1 to {nordic.PARTY_LENGTH} characters.")
    return nordic.Party(options[name], options[f"{name}_scheme"], options[f"{name}_role"])
