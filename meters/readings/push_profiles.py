"""Push profiles in the database: immutable versions, each bound to the form of the sample that it was made from."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.utils import timezone

from ami_headend.core.sql import fetch_rows
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.ciphers import KeptCiphers
from keyvault.opening import open_frames
from keyvault.replay_window_store import Care
from meters.contents.lines import PushProfileRow
from meters.models import PushProfile
from meters.readings.push.blanking import blanked
from meters.readings.push.definition import UNITS, Definition, ProfileError, parse_definition
from meters.readings.push.elements import Element
from meters.readings.push.profiles import ContentError, PushValue, elements_in, parse_notification, read
from meters.readings.push.skeleton import digest

_DECRYPTED = (b"\x0f", b"\xc2", b"/")  # what notifications begin with
_PUBLIC = Path(__file__).parent / "push" / "public_profiles.json"
PREFIX_OCTETS = range(3, 9)  # a manufacturer, to one meter


class Checked(NamedTuple):
    """A definition that reads its sample, with the sample and the values read."""

    definition: Definition
    skeleton: str
    values: list[PushValue]
    blanked: bytes  # the sample without what it measured; the definition reads it, too


class ProfileWish(NamedTuple):
    """A profile to register: its name, the prefix of its meters' titles (3 to 8 octets), and its definition.

    ``sample`` is a decrypted notification of such a meter, whose title is ``sample_title`` (8 octets).
    """

    name: str
    title_prefix: bytes
    definition: dict[str, Any]
    sample: bytes
    sample_title: bytes


class PublicProfile(NamedTuple):
    """A profile for a capture that others published: its name, source and licence, and what to register.

    Scalers that are not in the frame come from that project: compare them with your operator's documents.
    """

    name: str
    source: str
    wish: ProfileWish


def public() -> list[PublicProfile]:
    """Return the profiles that come with the head-end; none is registered automatically.

    Captures in clear have no title; theirs is made of the manufacturer's letters and zeros.
    """
    found = json.loads(_PUBLIC.read_text())
    return [
        PublicProfile(
            one["name"],
            one["source"],
            ProfileWish(
                one["name"], bytes.fromhex(one["title"])[:3], one["definition"], bytes.fromhex(one["sample"]),
                bytes.fromhex(one["title"]),
            ),
        )
        for one in found
    ]  # fmt: skip


def check(definition: object, sample: bytes, system_title: bytes) -> Checked:
    """Read a sample by a definition; ProfileError if the definition is invalid or does not fit the sample."""
    parsed = parse_definition(definition)
    try:
        notification = parse_notification(sample)
        values = read(notification, parsed, system_title)
        blank = blanked(sample, notification, system_title)
        again = parse_notification(blank)
        zeros = read(again, parsed, system_title)
    except ContentError as error:
        raise ProfileError(f"the sample is not read by it: {error}") from None
    if again.skeleton != notification.skeleton or [(one.obis, one.units) for one in zeros] != [
        (one.obis, one.units) for one in values
    ]:
        raise ProfileError("its values cannot be blanked, as they are before a sample is stored")
    return Checked(parsed, notification.skeleton, values, blank)


def opened(octets: bytes, actor: Actor) -> tuple[bytes, bytes | None]:
    """The notification in a captured frame, by the keys of its meter, and the meter's title.

    That is audited, and takes no counter. What is a notification already is given as it is, and no title.
    ProfileError where the frame does not open.
    """
    if octets[:1] in _DECRYPTED:
        return octets, None
    ((found, refused),) = open_frames([[(0, octets)]], Care.LOOK, KeptCiphers()).uplinks
    if refused:
        raise ProfileError(f"the frame does not open ({refused[0].reason}): {refused[0].detail}")
    title = found[0].kid[:8]
    chain.record(actor, "push_profile.open", {"title": title.hex(), "frame_sha256": sha256(octets).hexdigest()})
    return found[0].plaintext, title


def describe(sample: bytes) -> list[str]:
    """Describe a sample: its form, and a line for each element; ContentError if it is no notification."""
    notification = parse_notification(sample)
    lines = [f"form {digest(notification.skeleton).hex()[:16]}: {notification.skeleton}"]
    if notification.data is not None and notification.data.date_time:
        lines.append(f"date-time of the notification: {notification.data.date_time.hex()}")
    return lines + [_told(element) for element in elements_in(notification)]


def _told(element: Element) -> str:
    value = element.value.hex() if isinstance(element.value, bytes) else element.value
    unit = ""
    if element.unit is not None:
        scaler, code = element.unit
        unit = f"  scaler {scaler}, unit {' or '.join(UNITS.get(code, ())) or code}"
    return f"at {element.place}: {f'{element.obis}  ' * bool(element.obis)}{value}{unit}"


def add(wish: ProfileWish, actor: Actor) -> PushProfile:
    """Register a profile as the next version of its name; frames that wait for it are judged again. Audited.

    What its sample measured is blanked before it is stored.

    ProfileError if it does not read its sample, or somebody else registered a version at the same time.
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
                sample=checked.blanked,
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


def retire(name: str, version: int | None, actor: Actor) -> list[PushProfile]:
    """Retire a version of a profile, or all that are in use (None): no notification is read by it any more. Audited.

    Frames of its form are read by the profile that is the next to fit, or wait. ProfileError where none is in use.
    """
    with transaction.atomic():
        rows = PushProfile.objects.select_for_update().filter(name=name, retired_at=None)
        found = list((rows if version is None else rows.filter(version=version)).order_by("version"))
        if not found:
            which = f"version {version} of {name[:64]!r}" if version is not None else f"{name[:64]!r}"
            raise ProfileError(f"no profile {which} is in use: manage.py push_profile list shows them")
        PushProfile.objects.filter(pk__in=[one.pk for one in found]).update(retired_at=timezone.now())
        chain.record(actor, "push_profile.retire", {"profiles": [str(one) for one in found]})
    return found


def verify() -> list[tuple[PushProfile, str]]:
    """Read the sample of every profile in use by its definition; of each, what is wrong, or an empty text."""
    found = []
    for profile in PushProfile.objects.filter(retired_at=None).order_by("name", "version"):
        try:
            checked = check(profile.definition, bytes(profile.sample), bytes(profile.sample_title))
            wrong = "" if checked.skeleton == profile.skeleton else "its sample has another form now"
        except ProfileError as error:
            wrong = str(error)
        found.append((profile, wrong))
    return found


def active() -> list[PushProfileRow]:
    """Return the profiles by which notifications are read, newest first. One query."""
    rows = fetch_rows(
        """SELECT title_prefix, skeleton_sha256, definition FROM meters_pushprofile
           WHERE retired_at IS NULL ORDER BY id DESC"""
    )
    return [PushProfileRow(prefix, sha256, parse_definition(definition)) for prefix, sha256, definition in rows]
