"""How simulated meters seal frames: one sealer for each scheme of keys. No Django."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from concentrators.simulator.keys import Key
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256, HMAC_256_64, HMAC_256_256, HPKE_PSK
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
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
}


def sealer(key: Key, title: bytes, place: Place) -> Sealer:
    """Return the sealer of readings for a key, by its scheme."""
    return METER_SCHEMES[key.scheme].sealer(key, title, place)
