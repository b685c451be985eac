"""Event notifications whose sender only the link tells (``ca``): its title is put in front.

A wrong title opens nothing, because it is part of the nonce (docs/dlms.md section 1).
"""

from collections.abc import Mapping, Sequence

from concentrators.models import Assignment
from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.framing import unwrap, wrapper_frames

GLO_EVENT_NOTIFICATION = b"\xca"
_GENERAL_GLO = b"\xdb\x08"  # and the length of the title


def with_titles(concentrator_id: int, notifications: Sequence[bytes], by_port: Mapping[int, bytes]) -> list[bytes]:
    """Return notifications, each ``ca`` as a ``db`` of its sender, without its links; others, and those of unknown
    senders, as they are.

    ``by_port`` has titles (8 octets) by source port of the TCP wrapper; else the sender is the only meter that is
    assigned to the concentrator. At most one query.
    """
    found, only = list(notifications), None
    for place, octets in enumerate(notifications):
        apdu = _untitled(octets)
        if apdu is None:
            continue
        title = by_port.get(wrapper_frames(octets)[0].source) if octets[:2] == b"\x00\x01" else None
        if title is None:
            only = _only_meter(concentrator_id) if only is None else only
            title = only
        if title:
            found[place] = _GENERAL_GLO + title + apdu[1:]
    return found


def _untitled(octets: bytes) -> bytes | None:
    """Return the APDU of a notification that does not say its sender; None of any other."""
    try:
        apdu = unwrap(octets)
    except MalformedError:
        return None  # the verdict says so
    return apdu if apdu[:1] == GLO_EVENT_NOTIFICATION else None


def _only_meter(concentrator_id: int) -> bytes:
    """Return the title of the only meter that a concentrator has; nothing where it has none, or several."""
    assigned = Assignment.objects.filter(concentrator_id=concentrator_id, valid_to=None)
    titles = [bytes(title) for title in assigned.values_list("meter__system_title", flat=True)[:2]]
    return titles[0] if len(titles) == 1 else b""
