"""The hop tag: a COSE_Mac0 around a frame, by which a concentrator drops foreign frames (docs/schemes.md). Pure.

The concentrator checks and removes the tag; the head-end never sees one. It protects the local link and the
concentrator from garbage. It does not protect against replays, as the counters of the head-end do.
"""

from typing import NamedTuple

from keyvault.cose.algorithms import HMAC_256_64
from keyvault.cose.forms import ALG, KID, KID_OCTETS, Form, fault, read_bstr
from keyvault.cose.kdf import hop_mac_key
from keyvault.cose.mac import MacKey, encode_mac0
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError, make_kid
from keyvault.schemes.table import parse_frame

_START = b"\xd1\x84\x4f\xa2\x01" + bytes((HMAC_256_64,)) + b"\x04\x4a"
_PROTECTED_AT = 3
_KID_AT = len(_START)
_UNPROTECTED_AT = _KID_AT + KID_OCTETS
_FORM = Form("COSE_Mac0", 17, (15, 15), (ALG, KID), ("frame", "tag"))
_TAG_OCTETS = 8


class Tagged(NamedTuple):
    """A parsed frame with a hop tag; nothing in it is authentic before the tag is checked."""

    kid: bytes
    protected: bytes
    frame: bytes
    tag: bytes


def wears_tag(octets: bytes) -> bool:
    """Whether octets begin as a frame does that wears a hop tag."""
    return octets.startswith(_START[:4])


def parse_tagged(octets: bytes) -> Tagged:
    """Parse a tagged frame; the frame inside has any envelope, and the same title as the kid of the tag.

    MalformedError for everything but the one valid encoding.
    """
    wrong = fault(octets, _FORM)
    if wrong is not None:
        raise MalformedError(*wrong)
    if not octets.startswith(_START):
        raise MalformedError("the alg of a hop tag is HMAC 256/64 (4)", _PROTECTED_AT + 2)
    frame_at, frame_end = read_bstr(octets, _UNPROTECTED_AT + 1) or (0, 0)
    tag_at, tag_end = read_bstr(octets, frame_end) or (0, 0)
    if tag_end - tag_at != _TAG_OCTETS:
        raise MalformedError(f"a hop tag has {_TAG_OCTETS} octets, not {tag_end - tag_at}", frame_end)
    kid, frame = octets[_KID_AT:_UNPROTECTED_AT], octets[frame_at:frame_end]
    title, inside = kid[:SYSTEM_TITLE_OCTETS], parse_frame(frame).kid[:SYSTEM_TITLE_OCTETS]
    if title != inside:
        raise MalformedError(f"the tag is of meter {title.hex()}, the frame inside of {inside.hex()}", _KID_AT)
    return Tagged(kid, octets[_PROTECTED_AT:_UNPROTECTED_AT], frame, octets[tag_at:tag_end])


class HopTagKey:
    """The hop MAC key of one device key, between a meter and its concentrator. It cannot be printed.

    ``key`` are the 32 octets of ``keyvault.cose.kdf.hop_mac_key``, which the concentrator gets from the head-end.
    """

    __slots__ = ("_key", "_protected", "kid")

    def __init__(self, key: bytes, kid: bytes) -> None:
        self._key = MacKey(key, HMAC_256_64)
        self.kid = kid
        self._protected = _START[_PROTECTED_AT:] + kid

    @classmethod
    def of_device(cls, device_key: bytes, system_title: bytes, epoch: int, concentrator_title: bytes) -> "HopTagKey":
        """Derive it, as a meter does."""
        key = hop_mac_key(device_key, system_title, epoch, concentrator_title)
        return cls(key, make_kid(system_title, epoch))

    def seal_tag(self, frame: bytes) -> bytes:
        """Put a hop tag around a frame, under the newest epoch; the frame may be of an older one."""
        return encode_mac0(self._protected, frame, self._key.tag(self._protected, frame))

    def check_tag(self, tagged: Tagged) -> bytes:
        """Check the tag and return the frame inside; TagInvalidError if it is wrong, or names another key."""
        self._key.check(tagged.protected, tagged.frame, tagged.tag)
        return tagged.frame
