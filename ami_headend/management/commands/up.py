"""manage.py up: the whole head-end on this machine, for real concentrators."""

import signal
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.local.embedded import EmbeddedError
from ami_headend.local.stack import LocalStackError, Prepared, prepared, supervise
from ami_headend.processes import beat_command, listener_commands, web_command, worker_commands
from keyvault.master_key import MasterKeyError

_TERMINATED = 128 + signal.SIGTERM


class Command(DomainCommand):
    help = "Run the head-end on this machine: web server, workers, schedule, and PostgreSQL and Redis if none is set."
    panel = ""  # the name of a command whose output refreshes in place
    examples = (
        "examples:\n"
        "  manage.py up\n"
        "  manage.py up --port 9000 --workers 4\n"
        "  DATABASE_URL=postgres://headend@db/headend REDIS_URL=redis://redis/0 manage.py up\n\n"
        "A process that ends or is killed is restarted, up to five times within a minute. Ctrl-C stops everything\n"
        "that was started. With an address other than this machine's own (--host), put a TLS proxy in front and set\n"
        "ALLOWED_HOSTS to the names that it serves."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="port of the web server (8000)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument("--workers", type=int, default=2, help="processes that verify uplinks (2)")
        parser.add_argument("--web-workers", type=int, default=1, help="processes of the web server (1)")

    def handle(self, *args: Any, host: str, port: int, workers: int, web_workers: int, **options: Any) -> None:
        if workers < 1 or web_workers < 1:
            raise CommandError("--workers and --web-workers must be at least 1")
        self.stdout.write("Preparing database, keys and account ...")
        try:
            with prepared(host, port) as ready:
                self.announce(ready)
                commands = {
                    "web": web_command(host, port, web_workers),
                    **worker_commands(workers),
                    "beat": beat_command(),
                    **listener_commands(settings.DLMS_LISTEN),
                    **self.more_commands(ready, options),
                }
                supervise(commands, ready, self.panel)
        except (EmbeddedError, LocalStackError, MasterKeyError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            pass  # Ctrl-C is the usual end, not an error
        except SystemExit as ended:
            if ended.code != _TERMINATED:
                raise
        self.stdout.write("Everything that was started has stopped.")

    def announce(self, ready: Prepared) -> None:
        self.stdout.write(
            f"Address  {ready.address}admin/  (API {ready.address}api/docs/)\n"
            f"Account  {ready.account}\n"
            f"Data in  {settings.VAR_DIR}\n"
            "Ctrl-C stops everything."
        )
        self.stdout.flush()  # also into a file, before the head-end answers

    def more_commands(self, ready: Prepared, options: dict[str, Any]) -> dict[str, list[str]]:
        """Return further processes to run beside the head-end's own."""
        return {}
