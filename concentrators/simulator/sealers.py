"""How simulated meters seal frames: one sealer for each scheme of keys. No Django."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from concentrators.simulator.dlms_links import DlmsLink, carried, general_glo
from concentrators.simulator.keys import Key
from concentrators.simulator.notifications import notification
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, HMAC_256_64, HMAC_256_256, HPKE_PSK
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.schemes.dlms import security
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer


class Place(NamedTuple):
    """What a meter's frames depend on besides its key.

    ``kid_context`` (12 octets) names the current session. ``concentrator`` is the system title (8 octets) of the
    concentrator that opens ``hop`` frames.
    """

    kid_context: bytes = b""
    concentrator: bytes = b""


class Sealer(Protocol):
    """Seals frames under one key."""

    def seal(self, counter: int, payload: bytes) -> bytes:
        """Seal a frame under a counter that the caller never repeats."""
        ...


class _OfKid:
    """A cipher that gets the kid with each frame."""

    __slots__ = ("_cipher", "_kid")

    def __init__(self, cipher: DirectionCipher | MacCipher, kid: bytes) -> None:
        self._cipher, self._kid = cipher, kid

    def seal(self, counter: int, payload: bytes) -> bytes:
        return self._cipher.seal(self._kid, counter, payload)


class _OfSession:
    """A session; the meter keeps its counter."""

    __slots__ = ("_session",)

    def __init__(self, session: SessionSealer) -> None:
        self._session = session

    def seal(self, counter: int, payload: bytes) -> bytes:
        return self._session.seal_as(counter, payload)


def ccm(key: Key, title: bytes, _: Place) -> Sealer:
    """Frames of docs/frame.md."""
    return _OfKid(
        DirectionCipher(uplink_key(key.octets, title, key.epoch, key.alg), key.alg), make_kid(title, key.epoch)
    )


def _session(key: Key, title: bytes, place: Place) -> Sealer:
    return _OfSession(SessionSealer(key.octets, title, key.epoch, key.alg, place.kid_context))


def _mac(key: Key, title: bytes, _: Place) -> Sealer:
    return _OfKid(MacCipher(key.octets, title, key.epoch, key.alg), make_kid(title, key.epoch))


def _hop(key: Key, title: bytes, place: Place) -> Sealer:
    cipher = hop_cipher(key.octets, title, key.epoch, key.alg, place.concentrator)
    return _OfKid(cipher, make_kid(title, key.epoch))


def _sealed(key: Key, title: bytes, _: Place) -> Sealer:
    return SealedSealer(key.octets, title, key.epoch, key.head_end)


class _OfKeySet:
    """A DLMS meter: it pushes what a pack says as a notification, over its link. Its counter is the invocation's."""

    __slots__ = ("_by_place", "_cipher", "_link", "_title")

    def __init__(self, key: Key, title: bytes) -> None:
        self._cipher = GcmCipher(key.octets, security.control_of(key.alg))
        self._title, self._link, self._by_place = title, dlms_link(key.scheme, title), pushes_by_place(key.scheme)

    def seal(self, counter: int, payload: bytes) -> bytes:
        apdu = notification(payload, counter, by_place=self._by_place)
        return carried(general_glo(self._title, self._cipher.seal(self._title, counter, apdu)), self._link)


def dlms_link(scheme: str, title: bytes) -> DlmsLink:
    """The link that a DLMS meter's frames come over: of encrypted ones HDLC or the wrapper, of all others M-Bus."""
    if scheme != "dlms":
        return DlmsLink.MBUS
    return DlmsLink.WRAPPER if title[-1] % 2 else DlmsLink.HDLC


def pushes_by_place(scheme: str) -> bool:
    """Whether the readings of meters of a scheme have neither OBIS codes nor units, and wait for a late profile."""
    return scheme == "dlms without tag"


def _dlms(key: Key, title: bytes, _: Place) -> Sealer:
    return _OfKeySet(key, title)


class MeterScheme(NamedTuple):
    """A scheme that meters support: its number in key commands, the algorithms of its keys, and its sealer."""

    number: int
    algorithms: tuple[int, ...]
    sealer: Callable[[Key, bytes, Place], Sealer]


METER_SCHEMES = {
    "ccm": MeterScheme(0, (AES_CCM_16_64_128, AES_CCM_16_64_256), ccm),
    "session": MeterScheme(1, (AES_CCM_16_64_128, AES_CCM_16_64_256), _session),
    "mac": MeterScheme(2, (HMAC_256_64, HMAC_256_256), _mac),
    "hop": MeterScheme(3, (AES_CCM_16_64_128, AES_CCM_16_64_256), _hop),
    "sealed": MeterScheme(4, (HPKE_PSK,), _sealed),
    "ccm + masked": MeterScheme(6, (AES_CCM_16_64_128, AES_CCM_16_64_256), ccm),
    "session + masked": MeterScheme(9, (AES_CCM_16_64_128, AES_CCM_16_64_256), _session),
    "sealed + masked": MeterScheme(10, (HPKE_PSK,), _sealed),
    "mac + masked": MeterScheme(11, (HMAC_256_64, HMAC_256_256), _mac),
    # What the meter signed is sealed as any payload is.
    "ccm + signed": MeterScheme(5, (AES_CCM_16_64_128, AES_CCM_16_64_256), ccm),
    "session + signed": MeterScheme(7, (AES_CCM_16_64_128, AES_CCM_16_64_256), _session),
    "sealed + signed": MeterScheme(8, (HPKE_PSK,), _sealed),
    # Of suites 0 and 1, whose key sets have 32 octets.
    "dlms": MeterScheme(12, (security.algorithm_of(0x30), security.algorithm_of(0x31)), _dlms),
    "dlms in clear": MeterScheme(13, (security.algorithm_of(0x10), security.algorithm_of(0x11)), _dlms),
    "dlms without tag": MeterScheme(14, (security.algorithm_of(0x21), security.algorithm_of(0x20)), _dlms),
}


# Schemes of which ``all`` has two meters each; the others take arithmetic on a curve in every frame. In this order some
# of the first 25 meters enrol.
_TWICE = (
    *("mac", "hop", "dlms", "ccm", "ccm + masked", "session + masked", "mac + masked", "session"),
    *("dlms in clear", "dlms without tag"),
)
ALL_SCHEMES = [*METER_SCHEMES, *_TWICE]


def sealer(key: Key, title: bytes, place: Place) -> Sealer:
    """Return the sealer of readings for a key, by its scheme."""
    return METER_SCHEMES[key.scheme].sealer(key, title, place)
