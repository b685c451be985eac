"""What the protection of frames is computed from, for whoever builds a meter: told of bench keys alone.

Those are keys that are no secret, such as test keys of documents, and keys of laboratory meters.
Keys themselves are never told.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from keyvault.ciphers import KeptCiphers
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.kdf import hop_mac_info
from keyvault.cose.mac import mac_structure
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MalformedError
from keyvault.device_keys.unwrapping import DeviceKeyOctets, open_keys
from keyvault.device_keys.weak_keys import weakness
from keyvault.opening import ACCEPTABLE
from keyvault.replay_window_store import Care, read_keys
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey, Tagged
from keyvault.schemes.lines import Derived
from keyvault.schemes.table import CONCENTRATOR, ENVELOPES, HOP, SCHEMES, algorithm_name, scheme_numbered

_HOP = SCHEMES[HOP]


class KeyFacts(NamedTuple):
    """What is told of a frame's key: scheme, algorithm, state, and the highest counter that was taken, -1 for none.

    ``why_bench`` says why it is a bench key; None where it is none, and then there are no ``values``.
    """

    scheme: str
    algorithm: str
    state: str
    highest: int
    why_bench: str | None
    values: list[Derived]


class TagFacts(NamedTuple):
    """What is told of a hop tag: whether it fits, None where that cannot be known, and what it is computed from."""

    fits: bool | None
    values: list[Derived]


class FrameKeys:
    """The keys that some frames name, by their kids (10 octets, or 22 with a kid context), opened. Two queries.

    ``laboratory`` are the system titles (8 octets) of laboratory meters.
    """

    def __init__(self, kids: Iterable[bytes], laboratory: Collection[bytes] = ()) -> None:
        named = set(kids)
        self._laboratory = laboratory
        self._rows = read_keys(named, {}, Care.READ, KeptCiphers()) if named else {}
        usable = {row.id for row in self._rows.values() if row.state in ACCEPTABLE}
        self._opened = {key.id: key for key in open_keys(usable)} if usable else {}

    def of_frame(self, octets: bytes, kid: bytes) -> KeyFacts | None:
        """The facts of the key of a frame; None where there is no such key."""
        row = self._rows.get(kid)
        if row is None:
            return None
        key = self._key(kid)
        why = None if key is None else self._why_bench(key)
        values = [] if key is None or why is None else _values(octets, key)
        scheme = CONCENTRATOR if row.content == SCHEMES[CONCENTRATOR].content else scheme_numbered(row.scheme).name
        return KeyFacts(scheme, algorithm_name(row.alg), row.state, row.highest, why, values)

    def of_tag(self, tagged: Tagged, concentrator_title: bytes | None) -> TagFacts:
        """Whether a hop tag fits, of a meter of the concentrator with that system title (8 octets)."""
        key = self._key(tagged.kid)
        if key is None or concentrator_title is None:
            return TagFacts(None, [])
        try:
            HopTagKey.of_device(key.octets, key.system_title, key.epoch, concentrator_title).check_tag(tagged)
            fits = True
        except TagInvalidError:
            fits = False
        if self._why_bench(key) is None:
            return TagFacts(fits, [])
        info = hop_mac_info(key.system_title, key.epoch, concentrator_title)
        structure = mac_structure(tagged.protected, tagged.frame)
        return TagFacts(fits, [Derived("info of the hop MAC key", info), Derived("MAC_structure", structure)])

    def opens_at_concentrator(self, octets: bytes, kid: bytes, concentrator_title: bytes) -> bool:
        """Whether a meter of scheme hop sealed the frame for the concentrator with that system title (8 octets)."""
        row, key = self._rows.get(kid), self._key(kid)
        if row is None or key is None or row.scheme != _HOP.number:
            return False
        try:
            frame = ENVELOPES[_HOP.envelope].parse(octets)
            hop_cipher(key.octets, key.system_title, key.epoch, frame.alg, concentrator_title).open_(frame)
        except (MalformedError, TagInvalidError, ValueError):
            return False
        return True

    def _why_bench(self, key: DeviceKeyOctets) -> str | None:
        if key.system_title in self._laboratory:
            return "is of a laboratory meter"
        return weakness(key.octets, key.system_title)

    def _key(self, kid: bytes) -> DeviceKeyOctets | None:
        row = self._rows.get(kid)
        key = None if row is None else self._opened.get(row.id)
        if key is not None:
            key.kid_context = kid[KID_OCTETS:]
        return key


def _values(octets: bytes, key: DeviceKeyOctets) -> list[Derived]:
    """The values of a frame; none of octets that are no frame of the key's algorithm."""
    try:
        envelope = ENVELOPES.of(octets)
        frame = envelope.parse(octets)
    except MalformedError:
        return []
    return envelope.derived(key, frame) if frame.alg == key.algorithm else []
