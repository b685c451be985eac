"""manage.py web: the web server."""

from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import ALL_CHECKS, CommandError, CommandParser
from django.urls import get_resolver

from ami_headend.core.commands import DomainCommand
from ami_headend.server.listening_socket import listen
from ami_headend.server.serving import STOP_S, serve
from ami_headend.server.supervisor import Supervisor
from ami_headend.server.watch import watching
from ami_headend.wsgi import application


class Command(DomainCommand):
    requires_system_checks = ALL_CHECKS  # type: ignore[assignment]
    help = "Run the web server: pages, API, probes. HTTP/1.1, for a TLS proxy in front of it."
    examples = (
        "examples:\n"
        "  manage.py web\n"
        "  manage.py web --host 10.0.0.5 --port 8000 --processes 4\n\n"
        "A process that dies is replaced at once, and one that hangs after WEB_SILENCE_S seconds. SIGTERM ends all\n"
        "of them once they have answered their present requests."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000)")
        parser.add_argument("--processes", type=int, default=1, help="how many processes answer (1)")

    def handle(self, *args: Any, host: str, port: int, processes: int, **options: Any) -> None:
        if processes < 1:
            raise CommandError("--processes must be at least 1")
        try:
            listening = listen(host, port)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"Cannot listen on {host} port {port} ({reason}): choose another.") from error
        _ = get_resolver().url_patterns  # load every view before the processes are forked
        beside = watching(processes)
        Supervisor(listening, processes, partial(serve, application), STOP_S, settings.WEB_SILENCE_S, beside).run()
