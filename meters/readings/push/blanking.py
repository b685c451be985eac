"""A notification with its measured values blanked: what a profile keeps of the sample that it was made from. Pure.

Numbers become zeros, and so do texts and octets. Date-times, codes, scalers, units and the meter's own title stay: so
does the skeleton, and the definition reads the same registers at the same time.
"""

from keyvault.schemes.dlms.axdr import Leaf, leaves_of
from meters.readings.push import p1
from meters.readings.push.clocks import is_date_time
from meters.readings.push.profiles import Notification
from meters.readings.push.skeleton import is_pushlist, pushlist_leaves


def blanked(payload: bytes, notification: Notification, system_title: bytes) -> bytes:
    """The octets of a notification that was taken apart, with what it measured blanked; as long as before."""
    if notification.telegram:
        return p1.blanked(payload, system_title)
    if notification.data is not None:
        said = notification.data
        body_at = 5 + len(said.date_time_head) + len(said.date_time)
        kept = pushlist_leaves(said.body) if is_pushlist(said.body) else 0
    else:
        assert notification.event is not None  # noqa: S101 - one of the three is there
        event = notification.event
        body_at, kept = 10 + len(event.date_time_head) + len(event.date_time), 0
    found = bytearray(payload)
    for leaf in leaves_of(payload, body_at)[kept:]:
        if not leaf.is_constant and not _stays(leaf, payload[leaf.start : leaf.end], system_title):
            found[leaf.start : leaf.end] = bytes(leaf.octets)
    return bytes(found)


def _stays(leaf: Leaf, said: bytes, system_title: bytes) -> bool:
    """Whether octets are a date-time, or the title of the meter, which the definition may ask for."""
    if not leaf.is_string:
        return False
    if said == system_title or said.lower() == system_title.hex().encode():
        return True
    return is_date_time(said)
