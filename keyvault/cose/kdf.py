"""Key derivation: COSE direct+HKDF-SHA-256 (RFC 9053 sections 5.2 and 6.1.2) and derived device keys. Pure."""

from functools import cache

import cbor2
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from keyvault.cose.algorithms import CCM, HMAC_256_64
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, encode_bstr

DEVICE_KEY_OCTETS = 32
HEAD_END = b"HES"  # the identity of the head-end in every context

_DIRECT_HKDF_SHA_256 = b"\xa1\x01\x29"  # {1: -10}
_BASE_IV_BITS = 104
_SECRET_OCTETS = 32


class TrafficKey:
    """A traffic key and its Base IV, which never leave keyvault. It cannot be printed, compared or pickled."""

    __slots__ = ("base_iv", "key")

    def __init__(self, key: bytes, base_iv: bytes) -> None:
        self.key = key
        self.base_iv = base_iv

    def __reduce__(self) -> str:
        raise TypeError("a traffic key is never pickled or copied")


def kdf_context(alg: int | str, bits: int, party_u: tuple[bytes, bytes | None], party_v: tuple[bytes, None]) -> bytes:
    """Return the octets of a COSE_KDF_Context (RFC 9053 section 5.2).

    ``alg`` is the COSE algorithm of the key or "IV-GENERATION", ``bits`` the derived length; a party is (identity,
    nonce), its third field is always nil.
    """
    return b"\x84" + _item(alg) + _party(*party_u) + _party(*party_v) + _public_info(bits)


_NIL = b"\xf6"
_item = cache(cbor2.dumps)  # a handful of algorithms


@cache
def _public_info(bits: int) -> bytes:
    return cbor2.dumps([bits, _DIRECT_HKDF_SHA_256])


def _party(identity: bytes, nonce: bytes | None) -> bytes:
    """Encode [identity, nonce, nil]; by hand for speed, as there are four for each device whose key is not cached."""
    return b"\x83" + encode_bstr(identity) + (_NIL if nonce is None else encode_bstr(nonce)) + _NIL


def uplink_key(device_key: bytes, system_title: bytes, epoch: int, alg: int, salt: bytes = b"") -> TrafficKey:
    """Derive traffic key and Base IV from meter to head-end; ``device_key`` has 32 octets, ``system_title`` 8."""
    return _derive(device_key, alg, (_title(system_title), _epoch(epoch)), (HEAD_END, None), salt)


def downlink_key(device_key: bytes, system_title: bytes, epoch: int, alg: int, salt: bytes = b"") -> TrafficKey:
    """Derive traffic key and Base IV from head-end to meter; those of epoch 0 (transfer key) seal key commands."""
    return _derive(device_key, alg, (HEAD_END, _epoch(epoch)), (_title(system_title), None), salt)


def hop_key(device_key: bytes, system_title: bytes, epoch: int, alg: int, concentrator_title: bytes) -> TrafficKey:
    """Derive traffic key and Base IV from meter to a concentrator (title of 8 octets) that opens its frames."""
    return _derive(device_key, alg, (_title(system_title), _epoch(epoch)), (_title(concentrator_title), None), b"")


def uplink_secret(device_key: bytes, system_title: bytes, epoch: int, alg: int) -> bytes:
    """Derive a secret of 32 octets between meter and head-end: an HMAC key, or a pre-shared key of HPKE."""
    return _secret(device_key, alg, (_title(system_title), _epoch(epoch)), (HEAD_END, None))


def hop_mac_key(device_key: bytes, system_title: bytes, epoch: int, concentrator_title: bytes) -> bytes:
    """Derive the key of HMAC 256/64 (32 octets) between meter and the concentrator with a system title (8 octets)."""
    return _secret(device_key, HMAC_256_64, (_title(system_title), _epoch(epoch)), (_title(concentrator_title), None))


def derived_device_key(fleet_key: bytes, system_title: bytes, epoch: int) -> bytes:
    """Derive a device key of 32 octets: HKDF-SHA-256 of the fleet key (32 octets) with an empty salt."""
    _check_key(fleet_key)
    info = cbor2.dumps(["ami-headend device key", _title(system_title), _epoch(epoch)])
    return HKDF(SHA256(), DEVICE_KEY_OCTETS, None, info).derive(fleet_key)


def uplink_infos(system_title: bytes, epoch: int, alg: int) -> tuple[bytes, bytes]:
    """The info strings of HKDF that ``uplink_key`` derives by: of the traffic key, and of the Base IV. No secrets."""
    return _infos(alg, (_title(system_title), _epoch(epoch)), (HEAD_END, None))


def hop_infos(system_title: bytes, epoch: int, alg: int, concentrator_title: bytes) -> tuple[bytes, bytes]:
    """The same that ``hop_key`` derives by."""
    return _infos(alg, (_title(system_title), _epoch(epoch)), (_title(concentrator_title), None))


def uplink_secret_info(system_title: bytes, epoch: int, alg: int) -> bytes:
    """The info string of HKDF that ``uplink_secret`` derives by. No secret."""
    return kdf_context(alg, 8 * _SECRET_OCTETS, (_title(system_title), _epoch(epoch)), (HEAD_END, None))


def hop_mac_info(system_title: bytes, epoch: int, concentrator_title: bytes) -> bytes:
    """The info string of HKDF that ``hop_mac_key`` derives by. No secret."""
    party_v = _title(concentrator_title), None
    return kdf_context(HMAC_256_64, 8 * _SECRET_OCTETS, (_title(system_title), _epoch(epoch)), party_v)


def _infos(alg: int, party_u: tuple[bytes, bytes], party_v: tuple[bytes, None]) -> tuple[bytes, bytes]:
    return (
        kdf_context(alg, CCM[alg].key_octets * 8, party_u, party_v),
        kdf_context("IV-GENERATION", _BASE_IV_BITS, party_u, party_v),
    )


def _derive(
    device_key: bytes, alg: int, party_u: tuple[bytes, bytes], party_v: tuple[bytes, None], salt: bytes
) -> TrafficKey:
    _check_key(device_key)
    if alg not in CCM:
        raise ValueError(f"{alg} is none of the AES-CCM algorithms {sorted(CCM)}")
    key_octets = CCM[alg].key_octets
    prk = HKDF.extract(SHA256(), salt or None, device_key)
    key_info, iv_info = _infos(alg, party_u, party_v)
    return TrafficKey(
        HKDFExpand(SHA256(), key_octets, key_info).derive(prk),
        HKDFExpand(SHA256(), _BASE_IV_BITS // 8, iv_info).derive(prk),
    )


def _secret(device_key: bytes, alg: int, party_u: tuple[bytes, bytes], party_v: tuple[bytes, None]) -> bytes:
    _check_key(device_key)
    info = kdf_context(alg, 8 * _SECRET_OCTETS, party_u, party_v)
    return HKDF(SHA256(), _SECRET_OCTETS, None, info).derive(device_key)


def _check_key(key: bytes) -> None:
    if len(key) != DEVICE_KEY_OCTETS:
        raise ValueError(f"a device or fleet key has {DEVICE_KEY_OCTETS} octets, not {len(key)}")


def _title(system_title: bytes) -> bytes:
    if len(system_title) != SYSTEM_TITLE_OCTETS:
        raise ValueError(f"a system title has {SYSTEM_TITLE_OCTETS} octets, not {len(system_title)}")
    return system_title


def _epoch(epoch: int) -> bytes:
    if not 0 <= epoch <= 0xFFFF:
        raise ValueError(f"an epoch is 0 to 65,535, not {epoch}")
    return epoch.to_bytes(2, "big")
