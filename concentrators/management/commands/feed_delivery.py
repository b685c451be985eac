"""manage.py feed_delivery: how the rows of subscriptions of the feed are sent to their consumers."""

import getpass
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from concentrators.feed import bodies, subscriptions
from concentrators.feed.deliveries import configuration, sending
from concentrators.feed.deliveries.configuration import DeliverySettingError, Made, Wanted
from concentrators.feed.rows import Resource
from concentrators.models import DeliveryKind
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError
from keyvault.receiver_logins import LoginError
from meters.registry import groups
from meters.registry.groups import GroupError

_SETTINGS = ("kind", "address", "format", "rows", "wait_minutes", "host_key")


class Command(DomainCommand):
    help = (
        "List the deliveries of the feed, make or change one, pause, resume or remove it, make a new secret, show our"
        " public key, or send now what is due; audited. A secret is printed once, alone on stdout."
        " Exits 1 if nothing was done, or a batch was not taken."
    )
    examples = (
        "examples:\n"
        "  manage.py feed_delivery list\n"
        "  manage.py feed_delivery set billing --kind webhook --address https://billing.example/feed\n"
        "  manage.py feed_delivery set lake --kind folder --address /srv/feed/lake --format parquet\n"
        "  manage.py feed_delivery set mdm --kind sftp --address sftp://ami@mdm.example/in --format cim \\\n"
        "      --host-key 'ssh-ed25519 AAAA...'                prints our public key, for authorized_keys\n"
        "  manage.py feed_delivery set mdm --password          asks for the password of the server\n"
        "  manage.py feed_delivery set tamper --of events --kind webhook --address https://soc.example/in\n"
        "  manage.py feed_delivery pause billing\n"
        "  manage.py feed_delivery secret billing\n"
        "  manage.py feed_delivery run billing                 sends now, in this process"
    )
    refusals = (DeliverySettingError, GroupError, LoginError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "action", choices=["list", "set", "pause", "resume", "remove", "secret", "public-key", "run"]
        )
        parser.add_argument("name", nargs="?", help="the subscription; not for list")
        parser.add_argument("--of", choices=list(Resource), help="of a new subscription; default: readings")
        parser.add_argument("--at-end", action="store_true", help="a new subscription begins with what comes now")
        parser.add_argument("--kind", choices=DeliveryKind.values)
        parser.add_argument("--address", help="https://..., sftp://user@host:port/folder, or a folder")
        parser.add_argument("--format", choices=list(bodies.FORMS), help="default: ndjson")
        parser.add_argument("--rows", type=int, help="the most of one batch")
        parser.add_argument("--wait-minutes", type=int, help="a batch that is not full waits for so long at most")
        parser.add_argument("--group", help="only meters in this group (kind:name, or a tag); '' for all")
        parser.add_argument("--host-key", help="of the SFTP server, as in known_hosts")
        parser.add_argument("--password", action="store_true", help="ask for the server's password, or read it (stdin)")

    def handle(self, *args: Any, action: str, name: str | None, **options: Any) -> None:
        if (name is None) != (action == "list"):
            raise CommandError("list takes no name." if name else f"Name the subscription to {action}.")
        actor, now = command_actor(), timezone.now()
        if name is None:
            self._list()
        elif action == "set":
            resource = options["of"] and Resource(options["of"])
            self._show(
                configuration.save(name, _wanted(options), actor, now, resource=resource, at_end=options["at_end"])
            )
            self.stderr.write(f"{name} is set: `list` shows what waits, and what it fails of.")
        elif action in ("pause", "resume"):
            configuration.found(name)
            configuration.save(name, Wanted(is_enabled=action == "resume"), actor, now)
        elif action == "remove":
            configuration.remove(name, actor)
        elif action == "secret":
            self._show(configuration.new_secret(name, actor, now))
        elif action == "public-key":
            self.stdout.write(configuration.public_key(configuration.found(name)) or "none: it needs none")
        else:
            self._run(name)

    def _list(self) -> None:
        found = [one for one in subscriptions.standings(timezone.now()) if one.delivery is not None]
        for one in found:
            sent = one.delivery
            assert sent is not None  # noqa: S101 - the others were left out
            state = (
                "paused" if not sent.is_enabled else f"failing: {sent.last_error}" if sent.attempts else "delivering"
            )
            told = (
                f"{counted(sent.rows_sent, 'row')} in {counted(sent.batches, 'batch', 'batches')} sent, "
                f"{counted(one.rows, 'waits', 'wait')}"
            )
            self.stdout.write(f"{one.name}  {sent.kind}, {sent.format}, {one.resource}: {told}; {state}")
        if not found:
            self.stdout.write("Nothing is delivered: manage.py feed_delivery set NAME --kind ... --address ...")

    def _run(self, name: str) -> None:
        delivery = configuration.found(name)
        if not delivery.is_enabled:
            raise CommandError(f"{name} is paused: manage.py feed_delivery resume {name}")
        with sending.alone(delivery.pk) as ours:
            if not ours:
                raise CommandError(f"a worker sends for {name} at this moment: see `list`, or try again in a minute.")
            sending.make_due(delivery.pk)
            while sending.deliver_next(delivery.pk):
                pass
        after = configuration.found(name)
        if after.attempts:
            raise CommandError(f"a batch was not taken: {after.last_error}")
        self.stdout.write(f"{name}: {counted(after.rows_sent - delivery.rows_sent, 'row was', 'rows were')} sent.")

    def _show(self, made: Made) -> None:
        if made.secret:
            self.stderr.write("The signing secret, for the receiver; it is shown once:")
            self.stdout.write(made.secret)
        elif made.public_key:
            self.stderr.write("Our public key, for authorized_keys of the server's user:")
            self.stdout.write(made.public_key)


def _wanted(options: dict[str, Any]) -> Wanted:
    given = {name: options[name] for name in _SETTINGS}
    if options["password"]:
        asks = sys.stdin.isatty()
        given["password"] = getpass.getpass("Password of the server: ") if asks else sys.stdin.readline().rstrip("\n")
    if options["group"]:
        (given["group"],) = groups.find([options["group"]])
    return Wanted(**given, for_all=options["group"] == "")
