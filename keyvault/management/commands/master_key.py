"""manage.py master_key: the versions of the master key, and the rotation from one to the next."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from keyvault import approvals, master_key
from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.management import rotation_progress
from keyvault.master_key import MasterKeyError, rewrap, versions
from keyvault.models import MasterKeyRotation
from keyvault.tasks import rewrap_master_key

UNREADABLE = 2  # exit code: some secrets do not open
_NAMED = 50


class Command(DomainCommand):
    help = (
        "Make the master key, show its versions, rotate it, verify every secret under it, destroy an old version. "
        "Keys are never printed. Exits 2 where secrets do not open, 1 for any other failure."
    )
    examples = (
        "examples:\n"
        "  manage.py master_key init               make version 1; never overwrites\n"
        "  manage.py master_key status [--json]    versions, secrets under each, and the rotation\n"
        "  manage.py master_key rotate             make the next version, have the workers rewrap every secret\n"
        "  manage.py master_key rotate --here      and rewrap in this process: no worker is needed\n"
        "  manage.py master_key rotate --dry-run   what it would do; changes nothing\n"
        "  manage.py master_key rotate --stop      stop after the batch at hand;  --resume goes on\n"
        "  manage.py master_key verify             open every secret\n"
        "  manage.py master_key destroy 1          destroy version 1 for good, when nothing needs it\n"
        "                                          (where REQUIRE_APPROVAL is on: manage.py approvals first)\n\n"
        "Keep a copy of the master key apart from every database backup: without it no stored key opens."
    )
    refusals = (MasterKeyError, rewrap.RotationError, versions.DestroyError, ApprovalError, chain.AuditError)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, parser_class=CommandParser)
        actions.add_parser("init", help="make version 1 with MASTER_KEY_PROVIDER; never overwrites")
        status = actions.add_parser("status", help="versions, secrets under each, and the rotation")
        status.add_argument("--json", action="store_true", help="for programs")
        rotate = actions.add_parser("rotate", help="make the next version and rewrap every secret under it")
        rotate.add_argument("--batch-size", type=int, help=f"secrets a transaction (default: {rewrap.BATCH_SIZE})")
        act = rotate.add_mutually_exclusive_group()
        act.add_argument("--dry-run", action="store_true", help="open every secret and count; change nothing")
        act.add_argument("--resume", action="store_true", help="continue a stopped rotation, or finish what one left")
        act.add_argument("--stop", action="store_true", help="stop the running rotation after the present batch")
        way = rotate.add_mutually_exclusive_group()
        way.add_argument("--here", action="store_true", help="rewrap in this process instead of the workers")
        way.add_argument("--no-wait", action="store_true", help="leave it to the workers and return at once")
        way.add_argument("--wait", action="store_true", help="show the workers' progress until the end (the default)")
        actions.add_parser("verify", help="open every secret, and name those that do not open")
        destroy = actions.add_parser("destroy", help="destroy an old version for good, if nothing needs it")
        destroy.add_argument("version", type=int)
        destroy.add_argument("--yes-destroy", type=int, metavar="VERSION", help="the version again, without a prompt")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {
            "init": self.init,
            "status": self.status,
            "rotate": self.rotate,
            "verify": self.verify,
            "destroy": self.destroy,
        }
        acts[action](**options)

    def init(self, **options: Any) -> None:
        version, recorded = versions.make_first(chain.command_actor())
        note = "" if recorded else " There is no database to record it in yet."
        self.stdout.write(
            f"Made version {version} in {master_key.provider()}.{note} Keep a copy apart from the database's backups."
        )

    def status(self, *, json: bool, **options: Any) -> None:
        try:
            found = rotation_progress.status()
        except DatabaseError as error:
            known = ", ".join(f"{one.number} ({one.state})" for one in master_key.provider().versions())
            text = str(error).splitlines()[0]
            raise CommandError(f"versions {known}; the secrets under them cannot be counted: {text}") from None
        if json:
            self.write_json(found)
        else:
            self.stdout.write(rotation_progress.told(found))

    def rotate(self, *, dry_run: bool, resume: bool, stop: bool, here: bool, no_wait: bool, **options: Any) -> None:
        if stop:
            stopped = rewrap.stop(chain.command_actor())
            self.stdout.write(f"Stopped at {stopped.rewrapped} of {stopped.total}. Go on with rotate --resume.")
            return
        if dry_run:
            self.try_out()
            return
        actor, batch_size = chain.command_actor(), options["batch_size"]
        rotation = rewrap.resume(actor, batch_size) if resume else rewrap.begin(batch_size, actor)
        self.stdout.write(f"Version {rotation.to_version} is active; {counted(rotation.total, 'secret')} to rewrap.")
        if here:
            rotation_progress.work(rotation)
        else:
            self.enqueue(rotation)
            if no_wait:
                return
            rotation_progress.watch(rotation)
        self.conclude(rotation)

    def enqueue(self, rotation: MasterKeyRotation) -> None:
        try:
            rewrap_master_key.apply_async((rotation.pk,), retry=False)
        except rewrap_master_key.OperationalError as error:
            raise CommandError(
                f"The rotation has begun, but the queue does not take its task ({error}). It goes on by itself once "
                "broker, worker and beat run; or go on here: rotate --resume --here"
            ) from None

    def conclude(self, rotation: MasterKeyRotation) -> None:
        rotation.refresh_from_db()
        if rotation.state != rotation_progress.FINISHED:
            self.stdout.write(f"The rotation is {rotation.state} at {rotation.rewrapped} of {rotation.total}.")
            return
        self.stdout.write(
            f"Finished: {counted(rotation.rewrapped, 'secret')} rewrapped under version {rotation.to_version}."
        )
        if rotation.unreadable:
            self.name_faults(rewrap.unreadable(rotation), "was left as it is", "were left as they are")

    def try_out(self) -> None:
        if rewrap.current() is not None:
            raise CommandError("A rotation is unfinished; see manage.py master_key status.")
        found = rotation_progress.verify()
        total = found.opened + len(found.faults)
        self.stdout.write(f"Would make a new version and rewrap {found.opened} of {counted(total, 'secret')}.")
        if found.faults:
            self.name_faults(found.faults, "would be left as it is", "would be left as they are")

    def verify(self, **options: Any) -> None:
        found = rotation_progress.verify()
        result = (
            f"{counted(found.opened, 'secret opens', 'secrets open')}, {counted(len(found.faults), 'does', 'do')} not"
        )
        chain.record(
            chain.command_actor(), "master_key.verify", {"opened": found.opened, "faults": len(found.faults)}, result
        )
        self.stdout.write(f"{result}.")
        if found.faults:
            self.name_faults(found.faults, "does not open as it should", "do not open as they should")

    def name_faults(self, faults: list[str], one: str, more: str) -> None:
        for fault in faults[:_NAMED]:
            self.stderr.write(f"  {fault}")
        if len(faults) > _NAMED:
            self.stderr.write(f"  and {len(faults) - _NAMED} more")
        said = counted(len(faults), f"secret {one}: restore its row", f"secrets {more}: restore their rows")
        raise CommandError(f"{said} from a backup.", returncode=UNREADABLE)

    def destroy(self, *, version: int, yes_destroy: int | None, **options: Any) -> None:
        versions.check_destroyable(version, timezone.now())
        approvals.check(approvals.DESTROY, versions.approval_subject(version), timezone.now())
        if yes_destroy is None:
            self.stdout.write(
                f"Backups and copies of the database whose keys are under version {version} will never open again."
            )
            try:
                typed = input(f"Type {version} to destroy it for good: ").strip()
            except EOFError:
                typed = ""
        else:
            typed = str(yes_destroy)
        if typed != str(version):
            raise CommandError(f"{typed!r} is not {version}: nothing was destroyed.")
        versions.destroy(version, chain.command_actor(), timezone.now())
        self.stdout.write(f"Destroyed version {version} in {master_key.provider()}. Destroy its copies elsewhere, too.")
