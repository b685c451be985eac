"""manage.py dlms_listen: a door for meters that push DLMS over TCP."""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core.management.base import CommandError, CommandParser
from django.db import close_old_connections

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand
from concentrators.listener.figures import Figures
from concentrators.listener.gatherer import Gatherer, receive
from concentrators.listener.server import Limits, Listener, Whose, serve
from concentrators.models import Concentrator

PORT = 4059  # of DLMS/COSEM (IEC 62056-4-7)


class Command(DomainCommand):
    help = "Listen for meters, or converters, that push ciphered DLMS notifications over TCP (docs/dlms.md section 5)."
    examples = (
        "examples:\n"
        "  manage.py dlms_listen --concentrator 'Mill Lane'\n"
        "  manage.py dlms_listen --concentrator 'Mill Lane' --hdlc --port 4060\n"
        "  manage.py dlms_listen --concentrator 'Mill Lane' --meter 1=4b464d0000000001 --meter 2=4b464d0000000002\n"
        "  manage.py dlms_listen --host 0.0.0.0 --certificate tls.pem --key tls.key --client-ca meters.pem\n\n"
        "What comes is of the registered concentrator that is named, or that the client's certificate names (its\n"
        "common name). SIGTERM ends it once everything that has come whole is committed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--concentrator", metavar="NAME", help="the concentrator that everything that comes is of")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on ({PORT})")
        link = parser.add_mutually_exclusive_group()
        link.add_argument("--hdlc", dest="link", action="store_const", const="hdlc", help="HDLC frames, no wrapper")
        link.add_argument("--mbus", dest="link", action="store_const", const="mbus", help="M-Bus frames, no wrapper")
        parser.set_defaults(link="wrapper")
        parser.add_argument(
            "--meter", action="append", default=[], metavar="PORT=TITLE",
            help="the meter behind a source port of the wrapper, for event notifications without a title (ca); may be "
            "given for several ports. Without it the only meter of the concentrator is meant",
        )  # fmt: skip
        parser.add_argument("--certificate", metavar="FILE", help="TLS: our certificate chain, PEM")
        parser.add_argument("--key", metavar="FILE", help="TLS: its private key, PEM")
        parser.add_argument("--client-ca", metavar="FILE", help="TLS: whose client certificates are taken, PEM")
        parser.add_argument(
            "--per-address", type=int, default=Limits().per_address, help="connections of one address (50)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        tls = _tls(options["certificate"], options["key"], options["client_ca"])
        if (options["concentrator"] is None) != bool(options["client_ca"]):
            raise CommandError("Name the --concentrator, or the --client-ca whose certificates name one: one of both.")
        if options["per_address"] < 1 or not 0 < options["port"] < 65_536:
            raise CommandError("--per-address is at least 1, --port 1 to 65535.")
        name = options["concentrator"]
        if name is not None and _active(name) is None:
            self.stderr.write(f"No active concentrator is called {name!r} yet: connections are refused until one is.")
        whose = _by_certificate if name is None else _one(name)
        titles = _titles(options["meter"])
        if titles and (options["link"] != "wrapper" or options["client_ca"]):
            raise CommandError("--meter goes with the TCP wrapper and one --concentrator.")
        listener_name = f"{socket.gethostname()} {options['host']}:{options['port']} {options['link']}"
        gatherer = Gatherer(Figures(listener_name), partial(receive, titles_by_port=titles))
        listener = Listener(gatherer, options["link"], whose, Limits(per_address=options["per_address"]))
        try:
            asyncio.run(serve(listener, gatherer, options["host"], options["port"], tls))
        except OSError as error:
            reason = error.strerror or error
            raise CommandError(f"Cannot listen on {options['host']} port {options['port']} ({reason}).") from error


def _titles(meters: Sequence[str]) -> dict[int, bytes]:
    """System titles by source port; CommandError where an argument is not PORT=TITLE."""
    found = {}
    for said in meters:
        port, _, title = said.partition("=")
        try:
            found[int(port)] = eui64.parse(title)
        except ValueError:
            raise CommandError(f"--meter is PORT=TITLE, as 1=4b464d0000000001, not {said[:60]!r}.") from None
    return found


def _one(name: str) -> Whose:
    """Everything is of one concentrator; connections are refused while it is not registered, or not active."""

    async def whose(_: Mapping[str, Any] | None) -> int | None:
        return await sync_to_async(_asked)(name)

    return whose


async def _by_certificate(certificate: Mapping[str, Any] | None) -> int | None:
    """The concentrator that the common name of a verified client certificate names."""
    names = [value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"]
    if len(names) != 1 or "\0" in names[0]:
        return None
    return await sync_to_async(_asked)(names[0])


def _asked(name: str) -> int | None:
    close_old_connections()  # one that broke is made anew
    return _active(name)


def _active(name: str) -> int | None:
    return Concentrator.objects.filter(name=name, is_active=True).values_list("pk", flat=True).first()


def _tls(certificate: str | None, key: str | None, client_ca: str | None) -> ssl.SSLContext | None:
    """The TLS that is asked for; CommandError where its files cannot be used."""
    if certificate is None:
        if key is not None or client_ca is not None:
            raise CommandError("--key and --client-ca need --certificate.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise CommandError(f"The files of TLS cannot be used: {error}.") from None
    return context
