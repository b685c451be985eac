"""Door to meters.readings.push_profiles."""

import json
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand
from ami_headend.core.eui64 import Eui64Error
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.models import PushProfile
from meters.readings import push_profiles
from meters.readings.push.definition import ProfileError
from meters.readings.push.profiles import ContentError
from meters.readings.push_profiles import ProfileWish
from meters.values import iso

_SAMPLE_MAX_OCTETS = 4096


class Command(DomainCommand):
    help = """Check, register and list push profiles: what the columns of DLMS notifications are (docs/dlms.md).

A sample is a frame as it was captured, whose meter's keys are imported, or what is in it, decrypted (0f ..., c2 ...,
or a P1 telegram): hex digits, or a file of them or of the octets. "check" without a definition shows what
stands where in the sample; with one, the values that come out. "add" registers the definition as the next version of
its name: frames that waited for it are judged again; of the sample it keeps the form, with what was measured
blanked. "retire" ends the use of versions of a name, "verify" reads the kept samples of all profiles in use again.
Every frame that is decrypted for this is audited.

Examples:
  manage.py push_profile check sample.hex
  manage.py push_profile check sample.hex --definition kaifa.json
  manage.py push_profile add sample.hex --definition kaifa.json --name "Kaifa list 2"
  manage.py push_profile add decrypted.hex --title 4b464d6750000009 --definition kaifa.json --name "Kaifa list 2"
  manage.py push_profile public
  manage.py push_profile add --public "Kaifa MA309M, Netz NÖ (AT)"
  manage.py push_profile list
  manage.py push_profile retire --name "Kaifa list 2" --of-version 1
  manage.py push_profile verify
"""
    refusals = (ProfileError, ContentError, MasterKeyError, AuditError)
    nothing_done = ". Nothing was registered."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("act", choices=["check", "add", "list", "retire", "verify", "public"])
        parser.add_argument("sample", nargs="?", metavar="FILE|HEX")
        parser.add_argument("--definition", type=Path, metavar="FILE", help="JSON, as in docs/dlms.md section 3")
        parser.add_argument("--title", metavar="HEX", help="system title of the meter that sent a decrypted sample")
        parser.add_argument("--public", metavar="NAME", help="register a profile that comes with the head-end")
        parser.add_argument(
            "--of-version", type=int, metavar="NUMBER", help="retire: that version alone; else all that are in use"
        )
        parser.add_argument("--name", help="of the profile; a name that there is gets its next version")
        parser.add_argument(
            "--for",
            dest="prefix",
            metavar="HEX",
            help="beginning of the titles of its meters, 3 to 8 octets; else the manufacturer of the sample",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        act = options["act"]
        if act == "list":
            self._list()
        elif act == "retire":
            self._retire(options)
        elif act == "verify":
            self._verify()
        elif act == "public":
            for one in push_profiles.public():
                self.stdout.write(f"{one.name}  meters {one.wish.title_prefix.hex()}  {one.source}")
        elif act == "add" and options["public"] is not None:
            self._add(_public(options["public"]), options["prefix"])
        elif options["sample"] is None:
            raise CommandError("Name the sample: a file, or hex digits.")
        else:
            self._work_on(options)

    def _work_on(self, options: dict[str, Any]) -> None:
        """Tell what stands where in a sample, or what comes out of it; and register the definition."""
        sample, title = push_profiles.opened(_sample(options["sample"]), chain.command_actor())
        if options["act"] == "check" and options["definition"] is None:
            self.stdout.write("\n".join(push_profiles.describe(sample)))
            return
        if options["definition"] is None:
            raise CommandError("Give the definition with --definition.")
        if options["title"] is not None:
            title = _octets(options["title"], "--title")
        if title is None:
            raise CommandError("Say with --title which meter sent the sample: it is decrypted, and does not say so.")
        definition = _definition(options["definition"])
        checked = push_profiles.check(definition, sample, title)
        if options["act"] == "add":
            if not options["name"]:
                raise CommandError("Name the profile with --name.")
            self._add(ProfileWish(options["name"], title[:3], definition, sample, title), options["prefix"])
        for value in checked.values:
            unit = " or ".join(value.units)
            self.stdout.write(f"{iso(value.at_s)}  {value.obis}  {value.raw} x 10^{value.scaler} {unit}")

    def _add(self, wish: ProfileWish, prefix: str | None) -> None:
        if prefix is not None:
            wish = wish._replace(title_prefix=_octets(prefix, "--for"))
        profile = push_profiles.add(wish, chain.command_actor())
        self.stdout.write(f"Registered {profile}, for meters whose titles begin with {wish.title_prefix.hex()}.")

    def _retire(self, options: dict[str, Any]) -> None:
        if not options["name"]:
            raise CommandError("Name the profile with --name.")
        for profile in push_profiles.retire(options["name"], options["of_version"], chain.command_actor()):
            self.stdout.write(f"Retired {profile}.")

    def _verify(self) -> None:
        found = push_profiles.verify()
        for profile, wrong in found:
            self.stdout.write(f"{profile}  {wrong or 'reads its sample'}")
        wrong_ones = sum(bool(wrong) for _, wrong in found)
        if wrong_ones:
            raise CommandError(f"{wrong_ones} of {len(found)} profiles in use do not read their samples.")

    def _list(self) -> None:
        for profile in PushProfile.objects.order_by("name", "version"):
            prefix, sha256 = bytes(profile.title_prefix).hex(), bytes(profile.skeleton_sha256).hex()[:16]
            state = "retired" if profile.retired_at else "active"
            self.stdout.write(f"{profile}  {state}  meters {prefix}  form {sha256}  {profile.definition['kind']}")


def _public(name: str) -> ProfileWish:
    found = next((one.wish for one in push_profiles.public() if one.name == name), None)
    if found is None:
        raise CommandError(
            f"No profile {name[:80]!r} comes with the head-end: manage.py push_profile public lists them."
        )
    return found


def _sample(text: str) -> bytes:
    path = Path(text)
    try:
        octets = path.read_bytes()[: 3 * _SAMPLE_MAX_OCTETS] if len(text) < 200 and path.is_file() else text.encode()
    except OSError as error:
        raise CommandError(f"Cannot read {path}: {error.strerror}.") from None
    with suppress(ValueError):  # else the octets are the sample as they are
        octets = bytes.fromhex(octets.decode("ascii"))
    if not 0 < len(octets) <= _SAMPLE_MAX_OCTETS:
        raise CommandError(f"A sample has 1 to {_SAMPLE_MAX_OCTETS} octets.")
    return octets


def _definition(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise CommandError(f"{path} is not JSON.") from None
    if not isinstance(found, dict):
        raise CommandError(f"{path} is no JSON object.")
    return found


def _octets(text: str, name: str) -> bytes:
    try:
        return eui64.parse(text) if name == "--title" else bytes.fromhex(text)
    except (Eui64Error, ValueError):
        raise CommandError(f"{name} is not hex digits of a system title.") from None
