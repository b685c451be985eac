"""Vectors of content ``signed``: coupon lists, readings signed under their coupons, and what is refused."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl import bindings

from concentrators.vectors.frames import EVENT, HPKE_PSK, frame, sealed_in
from concentrators.vectors.material import COUNTER, PAYLOAD, TIME_S, TITLE, Vector, Vectors, ccm, energy
from concentrators.vectors.others import AUTHORITY, AUTHORITY_KID, EXPIRES_S, ISSUER
from keyvault.cose.structures import make_kid
from keyvault.coupons import chameleon
from keyvault.coupons.forms import Coupon, encode_reading, reading_to_sign, sign_list
from keyvault.enrolment import certificates

_SCHEME = "ccm + signed"
_KID = make_kid(TITLE, 1)
_NUMBER = 7
_IDENTITY = Ed25519PrivateKey.from_private_bytes(bytes(range(0xE0, 0x100)))
_X = int.from_bytes(bytes.fromhex("837a0767d350ac510a6bba9d7172da43e8ada446d899a674681e371d815ddd08"), "little")
_K = int.from_bytes(bytes.fromhex("e7a6180bb96265a68320418f3d7c734775a778b3b70b6541b2057e092e878405"), "little")
_T = int.from_bytes(bytes.fromhex("62ef16a12600daac7b88b18f29e69056d90553dfff3b62a4e143333725d44202"), "little")
_SMALL_ORDER = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")  # of order 8
_NEUTRAL = b"\x01" + bytes(31)
_PRIME = 2**255 - 19
_NEWER = 1


def make() -> Vectors:
    """All vectors of signed readings."""
    for envelope, alg in (("ccm", 10), ("session", 10), ("sealed", HPKE_PSK)):
        announced, more = sealed_in(envelope, COUNTER, _list(), alg)
        scheme = {"scheme": f"{envelope} + signed"}
        yield _frame(f"coupon-list-in-{envelope}", announced, **_secrets(), **more, **scheme, payload=_list())
        octets, more = sealed_in(envelope, COUNTER + _NEWER, _sign(), alg)
        told = _secrets() | {"content": PAYLOAD, "h": _hash(PAYLOAD).to_bytes(32, "little"), "payload": _sign()}
        yield _frame(f"reading-in-{envelope}", octets, **told, **more, **scheme, before=[announced])
    yield from _lists()
    yield from _readings()


def _lists() -> Vectors:
    good, own = _list(), Coupon(chameleon.base_times(_K), _commitment())
    yield _frame("list-without-an-identity", _seal(good), "coupon_unknown", identity_certificate=None, payload=good)
    before = {"before": [_seal(good)]}
    yield _frame("the-same-list-sealed-again", _seal(good, _NEWER), **before)
    yield _frame("the-same-list-again", _seal(good), "duplicate", **before)
    other = Coupon(chameleon.base_times(_K + 1), chameleon.base_times(_T))
    yield _frame("another-list-of-the-number", _seal(_list(other), _NEWER), "coupon_reused", **before)
    yield _frame("a-coupon-of-another-number-again", _seal(_list(own, first=8), _NEWER), "coupon_reused", **before)
    more = [Coupon(chameleon.base_times(_K + n), chameleon.base_times(_T + n)) for n in range(11)]
    yield _frame("list-of-eleven", _seal(_list(*more)), payload=_list(*more))
    foreign = sign_list(Ed25519PrivateKey.from_private_bytes(bytes(32)), _KID, _NUMBER, _public(), [own])
    yield from _each(
        "signature_invalid",
        {
            "list-signed-by-another": foreign,
            "list-changed-signature": good[:-1] + bytes((good[-1] ^ 1,)),
            "list-with-a-point-of-small-order": _list(own._replace(point=_SMALL_ORDER)),
            "list-with-a-point-of-mixed-order": _list(own._replace(point=_mixed(own.point))),
            "list-with-the-neutral-point": _list(own._replace(commitment=_NEUTRAL)),
            "list-with-a-point-that-is-not-canonical": _list(own._replace(point=(_PRIME + 1).to_bytes(32, "little"))),
            "list-with-a-point-twice": _list(own, own._replace(commitment=own.point)),
        },
    )
    other_title = TITLE[:-1] + b"\xf2\x00\x01"
    yield from _each("identity_mismatch", {"list-of-another-title": _list(own, kid=other_title)})
    yield from _each(
        "payload_invalid",
        {
            "list-of-a-later-epoch": _list(own, kid=make_kid(TITLE, 2)),
            "list-of-twelve": _list(*more, Coupon(chameleon.base_times(_K + 11), chameleon.base_times(_T + 11))),
            "list-of-none": sign_list(_IDENTITY, _KID, _NUMBER, _public(), []),
            "list-and-octets-after-it": good + b"\x00",
            "list-with-an-unprotected-header": good.replace(_KID + b"\xa0", _KID + b"\xa1\x04\x40", 1),
            "list-cut-off": good[:-1],
        },
    )


def _readings() -> Vectors:
    good, response = _sign(), _sign()[-32:]
    announced = {"before": [_seal(_list())]}
    yield _frame("coupon-unknown", _seal(good, _NEWER), "coupon_unknown", payload=good)
    another = _sign(number=8)
    yield _frame("number-that-no-list-has", _seal(another, _NEWER), "coupon_unknown", payload=another, **announced)
    spent = {"before": [_seal(_list()), _seal(good, _NEWER)]}
    yield _frame("the-same-signature-sealed-again", _seal(good, 2), **spent)
    yield _frame("coupon-used-twice", _seal(_sign(energy(113, TIME_S + 1800)), 2), "coupon_reused", **spent)
    yield _frame("coupon-used-twice-in-one-counter", _seal(_sign(energy(113)), 1), "coupon_reused", **spent)
    r = int.from_bytes(response, "little")
    yield from _each(
        "signature_invalid",
        {
            "changed-response": good[:-1] + bytes((good[-1] ^ 1,)),
            "changed-reading": good.replace(b"\x18\x70", b"\x18\x71"),
            "response-0": good[:-32] + bytes(32),
            "response-of-l-and-more": good[:-32] + (r + chameleon.GROUP_ORDER).to_bytes(32, "little"),
        },
        **announced,
    )
    header = len(_KID) + 15
    forms = {
        "number-of-one-octet": good.replace(b"\x06\x44\x00\x00\x00\x07", b"\x06\x41\x07").replace(b"\x58\x19", b"\x56"),
        "octets-after-the-signature": good + b"\x00",
        "response-of-31-octets": good[:-34] + b"\x58\x1f" + response[1:],
        "no-sign1-tag": good[1:],
        "payload-in-a-longer-head": good.replace(b"\xa0\x58\x34", b"\xa0\x59\x00\x34"),
        "a-later-epoch": _sign(kid=make_kid(TITLE, 2)),
        "another-alg": good[:header].replace(b"\x3a\x00\x01\x00\x01", b"\x3a\x00\x01\x00\x02") + good[header:],
    }
    yield from _each("payload_invalid", forms, **announced)
    yield from _each("identity_mismatch", {"of-another-title": _sign(kid=TITLE[:-1] + b"\xf2\x00\x01")}, **announced)
    plain = {"plain-reading": PAYLOAD, "plain-interval": energy(112)}
    yield from _each("algorithm_mismatch", plain, **announced)
    noise = _sign(energy(1, register="1-0:99.99.0"))
    yield from _each("unknown_register", {"signed-and-of-an-unknown-register": noise}, **announced)
    yield _frame("plain-event", _seal(EVENT), payload=EVENT)
    yield _frame("signed-event", _seal(_sign(EVENT), _NEWER), payload=_sign(EVENT), **announced)


def _frame(name: str, octets: bytes, verdict: str = "accepted", /, **more: object) -> Vector:
    """A vector of a meter whose identity is registered at the head-end unless ``more`` says otherwise."""
    registered = {"identity_certificate": _certificate(), "authority": _authority(), "scheme": _SCHEME}
    return frame(f"signed/{name}", octets, verdict, **registered | more)


def _each(verdict: str, payloads: dict[str, bytes], **more: object) -> Vectors:
    for name, payload in payloads.items():
        yield _frame(name, _seal(payload, _NEWER), verdict, counter=COUNTER + _NEWER, payload=payload, **more)


def _seal(payload: bytes, later: int = 0) -> bytes:
    return ccm(COUNTER + later, payload)


def _authority() -> Vector:
    """The authority that certified the identity, as the head-end pins it."""
    return {"kid": AUTHORITY_KID, "issuer": ISSUER, "public": AUTHORITY.public_key().public_bytes_raw()}


def _certificate() -> bytes:
    return certificates.issue(
        AUTHORITY,
        AUTHORITY_KID,
        ISSUER,
        TITLE,
        certificates.IDENTITY_AUDIENCE,
        _IDENTITY.public_key().public_bytes_raw(),
        bytes(range(0xC8, 0xD0)),
        TIME_S,
        EXPIRES_S,
        certificates.CURVE_ED25519,
    )


def _secrets() -> Vector:
    """What a meter signs with, scalars little endian, and the one coupon that its list announces."""
    scalars = {"x": _X, "k": _K, "t": _T}
    return {
        "identity_private": _IDENTITY.private_bytes_raw(),
        "n": _NUMBER,
        "y": _public(),
        "point": chameleon.base_times(_K),
        "commitment": _commitment(),
    } | {name: scalar.to_bytes(32, "little") for name, scalar in scalars.items()}


def _public() -> bytes:
    return chameleon.base_times(_X)


def _commitment() -> bytes:
    return chameleon.times(_T, _public())


def _list(*coupons: Coupon, first: int = _NUMBER, kid: bytes = _KID) -> bytes:
    own = coupons or (Coupon(chameleon.base_times(_K), _commitment()),)
    return sign_list(_IDENTITY, kid, first, _public(), own)


def _hash(payload: bytes, number: int = _NUMBER, kid: bytes = _KID) -> int:
    return chameleon.hash_of(reading_to_sign(kid, number, payload), chameleon.base_times(_K), _public())


def _sign(payload: bytes = PAYLOAD, number: int = _NUMBER, kid: bytes = _KID) -> bytes:
    response = chameleon.respond(_hash(payload, number, kid), chameleon.ready(_K, _X), _T)
    return encode_reading(kid, number, payload, response)


def _mixed(point: bytes) -> bytes:
    """A point of the group, and one of order 8 added to it."""
    added: bytes = bindings.crypto_core_ed25519_add(point, _SMALL_ORDER)
    return added
