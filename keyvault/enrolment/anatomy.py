"""The parts of a certificate and their names, to explain evidence. Pure.

A place is a path of array indices and map labels from the certificate on, through the CBOR in its byte strings, too.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

Place = tuple[int | str, ...]

KCWT = 13  # the label of the unprotected header that brings a certificate (RFC 9528 section 3.5.3)
TAGS = {18: "COSE_Sign1 (RFC 9052 section 4.2)", 61: "CWT (RFC 8392)"}
EMBEDDED = frozenset[Place]({(0,), (2,)})  # byte strings with CBOR inside
_LATEST_S = 253_402_300_799  # the end of the year 9999
_TIMES = frozenset[Place]({(2, 4), (2, 5), (2, 6)})
_PLACES: Mapping[Place, str] = {
    (): "certificate",
    (0,): "protected header of the certificate, under its signature",
    (0, 1): "alg of the signature (-19: Ed25519, RFC 9864)",
    (0, 4): "kid of the authority",
    (1,): "unprotected header of the certificate",
    (1, 4): "kid of the authority",
    (2,): "claims, under the signature",
    (2, 1): "iss: the authority's name",
    (2, 2): "sub: the system title in hexadecimal",
    (2, 3): "aud: the name of the head-end's agreement key",
    (2, 4): "exp: when it ends",
    (2, 5): "nbf: when it begins",
    (2, 6): "iat: when it was issued",
    (2, 7): "cti: its number",
    (2, 8): "cnf: the key that it vouches for (RFC 8747)",
    (2, 8, 1): "COSE_Key",
    (2, 8, 1, 1): "kty (1: OKP)",
    (2, 8, 1, -1): "crv (4: X25519)",
    (2, 8, 1, -2): "x: the meter's X25519 public key",
    (3,): "signature of the authority",
}


def label(place: Place, value: int) -> str:
    """What a label of the map at a place says."""
    return _PLACES.get((*place, value), "not one that a certificate has")


def meaning(place: Place, otherwise: str, value: int | None = None) -> str:
    """What the item at a place is; ``otherwise`` is its form, ``value`` its number where it is one."""
    name = _PLACES.get(place)
    if name is None:
        return otherwise
    if value is not None and place in _TIMES and 0 <= value <= _LATEST_S:
        return f"{name}: {datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{name}: {otherwise}"
