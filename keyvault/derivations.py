"""What the protection of frames is computed from, for whoever builds a meter: told of bench keys alone.

Those are keys that are no secret, such as test keys of documents, and keys of laboratory meters.
Keys themselves are never told.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from keyvault.ciphers import KeptCiphers
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.kdf import hop_infos, hop_mac_info, uplink_key
from keyvault.cose.mac import mac_structure
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError
from keyvault.counted_keys import ACCEPTABLE
from keyvault.device_keys.unwrapping import DeviceKeyOctets, open_keys
from keyvault.device_keys.weak_keys import weakness
from keyvault.enrolment.frames import parse_enrolment
from keyvault.enrolment.opening import Enrolling
from keyvault.models import AgreementKey
from keyvault.replay_window_store import Care, read_keys
from keyvault.schemes import ccm
from keyvault.schemes.agreed import agreed_info
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


class OpenedHop(NamedTuple):
    """A frame that opens at its concentrator; of bench keys also the plaintext, and what the frame is computed from."""

    plaintext: bytes | None
    values: list[Derived]


class FrameKeys:
    """The keys that some frames name, by their kids (10 octets, or 22 with a kid context), opened. Two queries.

    ``laboratory`` are the system titles (8 octets) of laboratory meters, ``enrolling`` keys that frames would enrol, by
    kid: one query more where there are some.
    """

    def __init__(
        self,
        kids: Iterable[bytes],
        laboratory: Collection[bytes] = (),
        enrolling: Mapping[bytes, Enrolling] = MappingProxyType({}),
    ) -> None:
        named = set(kids)
        self._laboratory = laboratory
        self._enrolling = enrolling
        versions = AgreementKey.objects.filter(pk__in={one.version_id for one in enrolling.values()})
        self._publics = dict(versions.values_list("pk", "public")) if enrolling else {}
        self._rows = read_keys(named, {}, Care.READ, KeptCiphers()) if named else {}
        usable = {row.id for row in self._rows.values() if row.state in ACCEPTABLE}
        self._opened = {key.id: key for key in open_keys(usable)} if usable else {}

    def of_frame(self, octets: bytes, kid: bytes) -> KeyFacts | None:
        """The facts of the key of a frame; None where there is no such key."""
        row = self._rows.get(kid)
        if row is None:
            return self._of_enrolling(octets, kid)
        key = self._key(kid)
        why = None if key is None else self._why_bench(key)
        values = [] if key is None or why is None else _values(octets, key)
        scheme = CONCENTRATOR if row.content == SCHEMES[CONCENTRATOR].content else scheme_numbered(row.scheme).name
        return KeyFacts(scheme, algorithm_name(row.alg), row.state, row.highest, why, values)

    def _of_enrolling(self, octets: bytes, kid: bytes) -> KeyFacts | None:
        """The facts of the key that a frame would enrol."""
        one = self._enrolling.get(kid)
        enrolment = None if one is None else parse_enrolment(octets)
        if one is None or enrolment is None:
            return None
        title, epoch = kid[:SYSTEM_TITLE_OCTETS], int.from_bytes(kid[SYSTEM_TITLE_OCTETS:KID_OCTETS], "big")
        why = "is of a laboratory meter" if title in self._laboratory else None
        values = []
        if why is not None:
            info = agreed_info(title, epoch, one.certificate.public, bytes(self._publics[one.version_id]))
            values = [Derived("info of the device key", info)]
            values += ccm.inputs(one.cipher, title, epoch, enrolment.frame, enrolment.certificate)
        return KeyFacts(one.awaited.scheme, algorithm_name(one.awaited.algorithm), "enrolled by this", -1, why, values)

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

    def opened_at_concentrator(self, octets: bytes, kid: bytes, concentrator_title: bytes) -> OpenedHop | None:
        """What a meter of scheme hop sealed for the concentrator with that system title (8 octets); None for others."""
        row, key = self._rows.get(kid), self._key(kid)
        if row is None or key is None or row.scheme != _HOP.number:
            return None
        try:
            frame = ENVELOPES[_HOP.envelope].parse(octets)
            cipher = hop_cipher(key.octets, key.system_title, key.epoch, frame.alg, concentrator_title)
            plaintext = cipher.open_(frame)
        except (MalformedError, TagInvalidError, ValueError):
            return None
        if self._why_bench(key) is None:
            return OpenedHop(None, [])
        infos = hop_infos(key.system_title, key.epoch, frame.alg, concentrator_title)
        return OpenedHop(plaintext, ccm.told(infos, cipher.inputs(frame)))

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
        if (enrolment := parse_enrolment(octets)) is not None:
            alg, frame = enrolment.frame.alg, enrolment.frame
            cipher = DirectionCipher(uplink_key(key.octets, key.system_title, key.epoch, alg), alg)
            return ccm.inputs(cipher, key.system_title, key.epoch, frame, enrolment.certificate)
        envelope = ENVELOPES.of(octets)
        frame = envelope.parse(octets)
    except MalformedError:
        return []
    return envelope.derived(key, frame) if frame.alg == key.algorithm else []
