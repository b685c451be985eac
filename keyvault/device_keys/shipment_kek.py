"""The transport key of a shipment: keys travel wrapped under it by RFC 3394, with AES-256."""

import os
import re
import stat
from pathlib import Path

from cryptography.hazmat.primitives import keywrap

from keyvault.device_keys.fingerprints import fingerprint
from keyvault.device_keys.weak_keys import weakness

TRANSPORT_KEY_OCTETS = 32
WRAPPED_OCTETS = 40
_HEX = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")
_FILE_MAX_OCTETS = 100


class TransportKeyError(Exception):
    """The transport key's file cannot be used; the message says why and what to do."""


class TransportUnwrapError(Exception):
    """A wrapped key that does not open: it was changed, or wrapped under another transport key."""


class TransportKey:
    """A key encryption key of 32 octets. It cannot be printed, compared or pickled."""

    __slots__ = ("_octets", "fingerprint")

    def __init__(self, octets: bytes) -> None:
        if len(octets) != TRANSPORT_KEY_OCTETS:
            raise ValueError(f"a transport key has {TRANSPORT_KEY_OCTETS} octets, not {len(octets)}")
        self._octets = octets
        self.fingerprint = fingerprint(octets)

    def __reduce__(self) -> str:
        raise TypeError("a transport key is never pickled or copied")

    def wrap(self, key: bytes) -> bytes:
        """Wrap a key of 32 octets; the result has 40 (RFC 3394 section 2.2.1)."""
        return keywrap.aes_key_wrap(self._octets, key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """Unwrap 40 octets to the 32 of the key (RFC 3394 section 2.2.2); TransportUnwrapError."""
        try:
            return keywrap.aes_key_unwrap(self._octets, wrapped)
        except keywrap.InvalidUnwrap:
            raise TransportUnwrapError("it does not open under the transport key") from None


def load(path: Path) -> TransportKey:
    """Load a transport key: 32 octets, or 64 hex digits, in a file that only its owner may read. TransportKeyError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise TransportKeyError(
                    f"{path} has mode {mode:04o}: others may read it. Make it 0600: chmod 600 {path}"
                )
            octets = file.read(_FILE_MAX_OCTETS)
    except OSError as error:
        raise TransportKeyError(f"cannot read the transport key {path}: {error.strerror}") from None
    if len(octets) != TRANSPORT_KEY_OCTETS:
        match = _HEX.fullmatch(octets)
        if match is None:
            raise TransportKeyError(
                f"{path} is no transport key: it must hold 32 octets, or 64 hex digits, and no more"
            )
        octets = bytes.fromhex(match[1].decode())
    if reason := weakness(octets):
        raise TransportKeyError(f"the transport key in {path} {reason}: make one of 32 random octets")
    return TransportKey(octets)
