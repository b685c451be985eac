"""Certificates of meters and their revocations: CWT in COSE_Sign1 with Ed25519 (RFC 8392, RFC 9052, RFC 9864). Pure.

Certificates of others are accepted in any well-formed encoding; those issued here have the deterministic one.
"""

import math
from typing import Any, NamedTuple

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.enrolment.foreign_cbor import ForeignCborError, Tagged, decode

CERTIFICATE_MAX_OCTETS = 512
CTI_OCTETS = 8
ED25519 = -19
IDENTITY_AUDIENCE = "signed"  # the aud of certificates for identities that sign coupon lists
CURVE_X25519, CURVE_ED25519 = 4, 6  # of the key that a certificate vouches for (RFC 9053 section 7.1)
_SIGN1, _CWT = 18, 61
_ALG, _CRIT, _KID = 1, 2, 4
_ISS, _SUB, _AUD, _EXP, _NBF, _IAT, _CTI, _CNF = 1, 2, 3, 4, 5, 6, 7, 8
_COSE_KEY = 1
_KTY, _CRV, _X, _D = 1, -1, -2, -4
_OKP = 1
_CURVES = {CURVE_X25519: "X25519", CURVE_ED25519: "Ed25519"}
_KEY_OCTETS, _SIGNATURE_OCTETS = 32, 64
_REVOCATION = "ami-headend revocation"
_LATEST_S = 253_402_300_799  # the end of the year 9999
# The y coordinates of the points of small order, as they are encoded, without the sign of x: under such a key some
# signatures are valid for any message.
_FIELD_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _FIELD_PRIME - 1, _FIELD_PRIME, _FIELD_PRIME + 1, _ORDER_8, _FIELD_PRIME - _ORDER_8})


class CertificateError(ValueError):
    """Octets that are no certificate or revocation, or whose signature is wrong. Anyone can send them."""


class Signed(NamedTuple):
    """A parsed COSE_Sign1; nothing in it is authentic before ``verify``. ``kid`` names the signer."""

    kid: bytes
    protected: bytes
    payload: bytes
    signature: bytes


def kid_text(kid: bytes) -> str:
    """Return the kid of an authority as people write it: as text if it is text, else in hex; at most 64 octets."""
    text = kid[:64].decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else kid[:64].hex()


class Certificate(NamedTuple):
    """The content of a certificate: a public key (32 octets) belongs to a title (8 octets), for ``audience``.

    ``cti`` (8 octets) is its number, ``issued_s``, ``not_before_s`` and ``expires_s`` are Unix seconds.
    """

    signed: Signed
    issuer: str
    system_title: bytes
    audience: str
    issued_s: int
    not_before_s: int
    expires_s: int
    cti: bytes
    public: bytes

    @property
    def number(self) -> tuple[bytes, bytes]:
        """Return what names it among all certificates: the kid of its authority, and its cti."""
        return self.signed.kid, self.cti


class Revocation(NamedTuple):
    """The statement of an authority that a certificate (by its cti, 8 octets) is invalid from a Unix second on."""

    signed: Signed
    cti: bytes
    at_s: int


def parse_certificate(octets: bytes, curve: int = CURVE_X25519) -> Certificate:
    """Parse a certificate for a key of a curve, at most 512 octets; CertificateError says what is wrong."""
    if len(octets) > CERTIFICATE_MAX_OCTETS:
        raise CertificateError(f"a certificate has at most {CERTIFICATE_MAX_OCTETS} octets, not {len(octets)}")
    signed = _parse_signed(octets)
    claims = _decoded(signed.payload)
    if not isinstance(claims, dict):
        raise CertificateError("its payload is no map of claims")
    issued_s = _time(claims, _IAT, "iat (6)")
    return Certificate(
        signed,
        _text(claims, _ISS, "iss (1)"),
        _title(_text(claims, _SUB, "sub (2)")),
        _text(claims, _AUD, "aud (3)"),
        issued_s,
        _time(claims, _NBF, "nbf (5)") if _NBF in claims else issued_s,
        _time(claims, _EXP, "exp (4)"),
        _octets(claims, _CTI, CTI_OCTETS, "cti (7)"),
        _public(claims.get(_CNF), curve),
    )


def parse_revocation(octets: bytes) -> Revocation:
    """Parse a revocation; CertificateError says what is wrong."""
    if len(octets) > CERTIFICATE_MAX_OCTETS:
        raise CertificateError(f"a revocation has at most {CERTIFICATE_MAX_OCTETS} octets, not {len(octets)}")
    signed = _parse_signed(octets)
    match _decoded(signed.payload):
        case [str(what), bytes(cti), int(at_s)] if what == _REVOCATION and not isinstance(at_s, bool):
            if len(cti) == CTI_OCTETS and 0 <= at_s <= _LATEST_S:
                return Revocation(signed, cti, at_s)
    raise CertificateError(f'its payload is not ["{_REVOCATION}", cti, time]')


def check_authority_key(public: bytes) -> None:
    """Check an Ed25519 public key; CertificateError if it is none, or one under which anybody can sign."""
    if len(public) != _KEY_OCTETS:
        raise CertificateError(f"an Ed25519 public key has {_KEY_OCTETS} octets, not {len(public)}")
    if int.from_bytes(public, "little") % 2**255 in _SMALL_ORDER:
        raise CertificateError("the Ed25519 public key is a point of small order: anybody can sign under it")


def verify(signed: Signed, public: bytes) -> None:
    """Verify the signature with the Ed25519 public key of an authority (32 octets); else CertificateError."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, _to_sign(signed.protected, signed.payload))
    except (InvalidSignature, ValueError):
        raise CertificateError("its signature does not fit: forged, damaged, or another authority's") from None


def issue(
    authority: Ed25519PrivateKey,
    kid: bytes,
    issuer: str,
    system_title: bytes,
    audience: str,
    public: bytes,
    cti: bytes,
    issued_s: int,
    expires_s: int,
    curve: int = CURVE_X25519,
) -> bytes:
    """Issue a certificate in deterministic encoding; the caller never uses a ``cti`` (8 octets) twice."""
    cnf = {_COSE_KEY: {_KTY: _OKP, _CRV: curve, _X: public}}
    claims = {
        _ISS: issuer,
        _SUB: system_title.hex(),
        _AUD: audience,
        _EXP: expires_s,
        _IAT: issued_s,
        _CTI: cti,
        _CNF: cnf,
    }
    return _sign(authority, kid, cbor2.dumps(claims, canonical=True))


def revoke(authority: Ed25519PrivateKey, kid: bytes, cti: bytes, at_s: int) -> bytes:
    """Make a revocation of the certificate with a cti (8 octets)."""
    return _sign(authority, kid, cbor2.dumps([_REVOCATION, cti, at_s], canonical=True))


def _sign(authority: Ed25519PrivateKey, kid: bytes, payload: bytes) -> bytes:
    protected = cbor2.dumps({_ALG: ED25519}, canonical=True)
    signature = authority.sign(_to_sign(protected, payload))
    return cbor2.dumps(cbor2.CBORTag(_SIGN1, [protected, {_KID: kid}, payload, signature]), canonical=True)


def _to_sign(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", protected, b"", payload])


def _decoded(octets: bytes) -> Any:
    try:
        return decode(octets)
    except ForeignCborError as error:
        raise CertificateError(str(error)) from None


def _parse_signed(octets: bytes) -> Signed:
    item = _decoded(octets)
    if isinstance(item, Tagged) and item.number == _CWT:
        item = item.value
    match item:
        case Tagged(number=18, value=[bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]):
            pass
        case _:
            raise CertificateError("it is no COSE_Sign1 (tag 18) of four: protected, unprotected, payload, signature")
    headers = _decoded(protected) if protected else {}
    if not isinstance(headers, dict):
        raise CertificateError("its protected header is no map")
    if headers.keys() & unprotected.keys():
        raise CertificateError("a label stands in both of its headers")
    if headers.get(_ALG) != ED25519 or _CRIT in headers or _CRIT in unprotected:
        raise CertificateError(f"it is not signed with Ed25519 (alg {ED25519} in its protected header, no crit)")
    kid = headers.get(_KID, unprotected.get(_KID))
    if not isinstance(kid, bytes) or not kid or len(kid) > _SIGNATURE_OCTETS:
        raise CertificateError("it does not name its authority: kid (4), 1 to 64 octets")
    if len(signature) != _SIGNATURE_OCTETS:
        raise CertificateError(f"its signature has {len(signature)} octets, not {_SIGNATURE_OCTETS}")
    return Signed(kid, protected, payload, signature)


def _text(claims: dict[Any, Any], label: int, name: str) -> str:
    value = claims.get(label)
    if not isinstance(value, str) or not value:
        raise CertificateError(f"the claim {name} is no text")
    return value


def _octets(claims: dict[Any, Any], label: int, octets: int, name: str) -> bytes:
    value = claims.get(label)
    if not isinstance(value, bytes) or len(value) != octets:
        raise CertificateError(f"the claim {name} is no byte string of {octets} octets")
    return value


def _time(claims: dict[Any, Any], label: int, name: str) -> int:
    value = claims.get(label)
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LATEST_S:
        raise CertificateError(f"the claim {name} is no time in Unix seconds")
    return value


def _title(text: str) -> bytes:
    try:
        title = bytes.fromhex(text)
    except ValueError:
        title = b""
    if len(title) != SYSTEM_TITLE_OCTETS or len(text) != 2 * SYSTEM_TITLE_OCTETS:
        raise CertificateError("the claim sub (2) is no system title of 16 hexadecimal digits")
    return title


def _public(cnf: Any, curve: int) -> bytes:
    match cnf:
        case {1: {1: 1, -1: int(of), -2: bytes(public), **more}} if of == curve and len(public) == _KEY_OCTETS:
            if _D not in more:
                return public
    form = f"{{1: {{1: 1, -1: {curve}, -2: 32 octets}}}}"
    raise CertificateError(f"the claim cnf (8) is no {_CURVES[curve]} public key: {form}")
