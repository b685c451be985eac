"""manage.py messages: readings and events as messages of IEC 61968-9 in files; profiles of subscriptions."""

import errno
import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain as joined
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.disk import new_file
from concentrators.feed import bodies, messages, pages, subscriptions
from concentrators.feed.cursor import CursorError
from concentrators.feed.formats.profile import Profile, ProfileError, written
from concentrators.feed.pages import GoneError
from concentrators.feed.rows import Resource
from concentrators.feed.subscriptions import SubscriptionError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.archive.files import ArchiveError
from meters.readings.event_queries import EventSelection
from meters.readings.queries import ReadingSelection, SelectionError
from meters.registry.lookup import RegistryError, look_up

_NUMBERS = ("year", "readings_per_message")


class Command(DomainCommand):
    help = """Write readings or events as messages of IEC 61968-9 into a folder, a file each (docs/formats.md).

With --from and --to they are those of a period; with a subscription alone, those that its consumer has not taken yet
(its cursor stays where it is). The subscription's profile says how they are written. The export is audited. "profile"
shows the profile of a subscription, and changes the settings that are given.

Examples:
  manage.py messages readings --from 2026-11-01 --to 2026-11-02 --folder out
  manage.py messages events --from 2026-11-01 --to 2026-11-02 --meter 0024befffe804ff1 --folder out
  manage.py messages readings --subscription billing --folder out
  manage.py messages profile billing year=2009 energy=kWh readings_per_message=500
"""
    refusals = (
        ArchiveError,
        AuditError,
        CursorError,
        GoneError,
        MasterKeyError,
        ProfileError,
        RegistryError,
        SelectionError,
        SubscriptionError,
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        for resource in Resource:
            one = acts.add_parser(resource.value, help=f"write {resource.value}")
            one.add_argument("--from", dest="start", type=time_of, metavar="TIME")
            one.add_argument("--to", dest="end", type=time_of, metavar="TIME", help="not included")
            one.add_argument("--meter", action="append", metavar="METER", help="serial number or title; repeatable")
            one.add_argument("--subscription", metavar="NAME", help="whose profile is used")
            one.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where the files go")
        profile = acts.add_parser("profile", help="show or change the profile of a subscription")
        profile.add_argument("subscription", metavar="NAME")
        profile.add_argument("settings_given", nargs="*", metavar="SETTING=VALUE")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["act"] == "profile":
            self._profile(options["subscription"], options["settings_given"])
            return
        resource, profile = Resource(options["act"]), subscriptions.profile_of(options["subscription"])
        if (options["start"] is None) is not (options["end"] is None):
            raise CommandError("Give both --from and --to, or neither.")
        if options["start"] is not None:
            found = _of_period(resource, profile, options)
        elif options["subscription"] is None:
            raise CommandError("Say which: a period by --from and --to, or what a --subscription has not taken yet.")
        else:
            found = _not_taken(resource, profile, options["subscription"])
        subject = {"resource": resource.value, "subscription": options["subscription"]}
        self._write(found, resource, options["folder"], subject)

    def _write(
        self, found: Iterator[tuple[bytes, int]], resource: Resource, folder: Path, subject: dict[str, Any]
    ) -> None:
        """Write the messages, each into a file. The export is audited once its first message and the folder are there:
        what is refused makes nothing, and is no export.
        """
        files = rows = 0
        first = [message for message in [next(found, None)] if message is not None]
        try:
            with _room(folder, resource):
                chain.record(chain.command_actor(), "messages.export", subject)
            for octets, count in joined(first, found):
                files, rows = files + 1, rows + count
                with new_file(_file(folder, resource, files)) as file:
                    file.write(octets)
        except OSError as error:
            raise CommandError(f"{error.filename or folder} cannot be written: {error.strerror}.") from None
        self.stdout.write(f"{folder}: {rows:,} {resource} in {files:,} message{'s' * (files != 1)}.")

    def _profile(self, name: str, words: list[str]) -> None:
        given = written(subscriptions.profile_of(name))
        for word in words:
            setting, equals, value = word.partition("=")
            if not equals:
                raise CommandError(f"{word[:60]!r} is not of the form SETTING=VALUE.")
            given[setting] = int(value) if setting in _NUMBERS and value.isascii() and value.isdecimal() else value
        if words:
            subscriptions.set_profile(name, given, chain.command_actor())
        for setting, value in given.items():
            self.stdout.write(f"{setting}={value}")


def _file(folder: Path, resource: Resource, number: int) -> Path:
    return folder / f"{resource}-{number:06d}.xml"


@contextmanager
def _room(folder: Path, resource: Resource) -> Iterator[None]:
    """Make the folder, unless it is there; if the block fails, remove it again. OSError, also if it holds messages."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if (one := _file(folder, resource, 1)).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(one))
        yield
    except BaseException:
        if is_new:
            folder.rmdir()
        raise


def _of_period(resource: Resource, profile: Profile, options: dict[str, Any]) -> Iterator[tuple[bytes, int]]:
    if options["start"] >= options["end"]:
        raise CommandError("--from is not before --to.")
    meters = None if options["meter"] is None else [look_up(text).pk for text in options["meter"]]
    kind = ReadingSelection if resource is Resource.READINGS else EventSelection
    selection: Any = kind(options["start"], options["end"], meters)
    now = timezone.now()
    while True:
        found = messages.of_period(selection, profile, now, shows_places=True)
        if found.rows:
            yield found.octets, found.rows
        if found.key is None:
            return
        selection = replace(selection, after=found.key)


def _not_taken(resource: Resource, profile: Profile, name: str) -> Iterator[tuple[bytes, int]]:
    (standing,) = subscriptions.standings(timezone.now(), name)
    if standing.resource is not resource:
        raise SubscriptionError(f"subscription {name} follows {standing.resource}")
    cursor = str(standing.cursor)
    while True:
        planned = bodies.plan(resource, cursor, profile.readings_per_message, bodies.CIM, profile)
        message = messages.of_page(planned, pages.batches(planned, shows_places=True), profile)
        if message is None:
            return
        yield message, planned.rows
        cursor = str(planned.cursor)
