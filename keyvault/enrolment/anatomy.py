"""The parts of a certificate of an enrolment frame and their names, to explain evidence. Pure."""

from collections.abc import Mapping

from keyvault.cose.sign1_anatomy import TAGS, Place, Sign1Anatomy

KCWT = 13  # the label of the unprotected header that brings a certificate (RFC 9528 section 3.5.3)
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

CERTIFICATE = Sign1Anatomy(
    "a certificate",
    _PLACES,
    root=(1, KCWT),
    times=frozenset[Place]({(2, 4), (2, 5), (2, 6)}),
    tags=TAGS | {61: "CWT (RFC 8392)"},
)
