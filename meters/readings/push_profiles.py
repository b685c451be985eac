"""Push profiles in the database: immutable versions, each bound to the form of the sample that it was made from."""

from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from ami_headend.core.sql import fetch_rows
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.contents.lines import PushProfileRow
from meters.models import PushProfile
from meters.readings.push.definition import Definition, ProfileError, parse_definition
from meters.readings.push.profiles import ContentError, PushValue, parse_notification, read
from meters.readings.push.skeleton import digest

PREFIX_OCTETS = range(3, 9)  # a manufacturer, to one meter


class Checked(NamedTuple):
    """A definition that reads its sample: what it was made from, and the values that come out."""

    definition: Definition
    skeleton: str
    values: list[PushValue]


class ProfileWish(NamedTuple):
    """A profile to register: its name, the beginning of the titles of its meters (3 to 8 octets), and what it says.

    ``sample`` is a decrypted notification of such a meter, whose title is ``sample_title`` (8 octets).
    """

    name: str
    title_prefix: bytes
    definition: dict[str, Any]
    sample: bytes
    sample_title: bytes


def check(definition: object, sample: bytes, system_title: bytes) -> Checked:
    """Read a sample by a definition; ProfileError where the definition is none, or does not fit it."""
    parsed = parse_definition(definition)
    try:
        notification = parse_notification(sample)
        return Checked(parsed, notification.skeleton, read(notification, parsed, system_title))
    except ContentError as error:
        raise ProfileError(f"the sample is not read by it: {error}") from None


def add(wish: ProfileWish, actor: Actor) -> PushProfile:
    """Register a profile as the next version of its name; frames that wait for it are judged again. Audited.

    ProfileError where it does not read its sample, or somebody else registered a version at the same time.
    """
    checked = check(wish.definition, wish.sample, wish.sample_title)
    if len(wish.title_prefix) not in PREFIX_OCTETS or not wish.sample_title.startswith(wish.title_prefix):
        raise ProfileError("the titles that it is for begin with 3 to 8 octets, as that of the sample does")
    if not checked.values:
        raise ProfileError("no value of the sample comes out: name at least one column")
    versions = PushProfile.objects.filter(name=wish.name)
    newest = max(versions.values_list("version", flat=True), default=0)
    try:
        with transaction.atomic():
            profile = PushProfile.objects.create(
                name=wish.name,
                version=newest + 1,
                title_prefix=wish.title_prefix,
                definition=wish.definition,
                skeleton=checked.skeleton,
                skeleton_sha256=digest(checked.skeleton),
                sample=wish.sample,
                sample_title=wish.sample_title,
            )
            subject = {
                "profile": str(profile),
                "titles": wish.title_prefix.hex(),
                "skeleton_sha256": digest(checked.skeleton).hex(),
            }
            chain.record(actor, "push_profile.add", subject)
    except IntegrityError:
        raise ProfileError(f"a version of {wish.name} was registered meanwhile: look at it, and try again") from None
    return profile


def active() -> list[PushProfileRow]:
    """The profiles by which notifications are read, the newest first. One query."""
    rows = fetch_rows(
        """SELECT title_prefix, skeleton_sha256, definition FROM meters_pushprofile
           WHERE retired_at IS NULL ORDER BY id DESC"""
    )
    return [PushProfileRow(prefix, sha256, parse_definition(definition)) for prefix, sha256, definition in rows]
