"""Looks up meters in the registry by system title or serial number."""

from collections.abc import Sequence

from ami_headend.core import eui64
from ami_headend.core.eui64 import Eui64Error
from ami_headend.core.names import Alike, alike, tidy
from meters.models import Meter


class RegistryError(ValueError):
    """A change that the registry cannot make, or an unknown meter: the caller's mistake, named in the message."""


def parse_system_title(text: str) -> bytes:
    """Parse a system title to 8 octets, as ``core.eui64`` does; RegistryError for another form."""
    try:
        return eui64.parse(text)
    except Eui64Error as error:
        raise RegistryError(f"system title {error}") from None


def find_meter(system_title: str) -> Meter:
    """Return the meter of a system title in hex; RegistryError if there is none."""
    meter = Meter.objects.filter(system_title=parse_system_title(system_title)).first()
    if meter is None:
        raise RegistryError(f"there is no meter with system title {parse_system_title(system_title).hex()}")
    return meter


def unregistered(system_titles: Sequence[bytes]) -> list[bytes]:
    """Return the system titles (8 octets each) that no meter has, once each and in order; one query."""
    titles = list(dict.fromkeys(system_titles))
    meters = Meter.objects.filter(system_title__in=titles).values_list("system_title", flat=True)
    registered = set(map(bytes, meters))
    return [title for title in titles if title not in registered]


def look_up(text: str) -> Meter:
    """Return the meter that a person means, by serial number or system title in hex; RegistryError if none."""
    text = tidy(text)
    meter = (
        None if "\0" in text else Meter.objects.alias(alike=Alike("serial_number")).filter(alike=alike(text)).first()
    )
    if meter is None:
        try:
            return find_meter(text)
        except RegistryError as error:
            raise RegistryError(f"there is no meter with serial number {text[:64]}, and {error}") from None
    return meter
