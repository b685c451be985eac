"""The parts of signed readings and coupon lists, and their names, to explain evidence. Pure."""

from collections.abc import Mapping

from keyvault.cose.sign1_anatomy import Place, Sign1Anatomy
from keyvault.coupons.forms import is_list, is_sign1

_FIRST_COUPON = 5  # where coupons begin in the array of a list
# Labels of SenML (RFC 8428 section 6, table 4).
_SENML = {
    -1: "bver: version of SenML",
    -2: "bn: base name",
    -3: "bt: base time",
    -4: "bu: base unit",
    -5: "bv: base value",
    -6: "bs: base sum",
    0: "n: name, a register",
    1: "u: unit",
    2: "v: value",
    3: "vs: text value",
    4: "vb: boolean value",
    5: "s: sum",
    6: "t: time",
    7: "ut: update time",
    8: "vd: data value",
}
_READING_PLACES: Mapping[Place, str] = {
    (): "signed reading",
    (0,): "protected header, under the signature",
    (0, 1): "alg (-65538: one-time signature by chameleon hashing)",
    (0, 4): "kid of the coupon",
    (0, 6): "number of the coupon, big endian",
    (1,): "unprotected header",
    (2,): "pack, under the signature",
    (2, "record"): "record",
    **{(2, "record", label): name for label, name in _SENML.items()},
    (3,): "r, a scalar: the signature",
}
_LIST_PLACES: Mapping[Place, str] = {
    (): "coupon list",
    (0,): "protected header, under the signature",
    (0, 1): "alg of the signature (-19: Ed25519, RFC 9864)",
    (0, 4): "kid",
    (1,): "unprotected header",
    (2,): "list, under the signature",
    (2, 0): "what it is",
    (2, 1): "system title",
    (2, 2): "key epoch",
    (2, 3): "number of the first coupon",
    (2, 4): "Y: the meter's long-term point",
    (2, "coupon"): "coupon",
    (2, "coupon", 0): "K: point of the coupon",
    (2, "coupon", 1): "C: commitment",
    (3,): "signature of the meter's identity",
}


def _of_record(place: Place) -> Place:
    """The place of the same part of every record."""
    return (2, "record", *place[2:]) if len(place) > 1 and place[0] == 2 else place


def _of_coupon(place: Place) -> Place:
    """The place of the same part of every coupon."""
    is_coupon = len(place) > 1 and place[0] == 2 and isinstance(place[1], int) and place[1] >= _FIRST_COUPON
    return (2, "coupon", *place[2:]) if is_coupon else place


SIGNED_READING = Sign1Anatomy(
    "a signed reading",
    _READING_PLACES,
    times=frozenset[Place]({(2, "record", -3)}),
    tags={4: "decimal fraction", 18: "COSE_Sign1 (RFC 9052 section 4.2)"},
    usual=_of_record,
)
COUPON_LIST = Sign1Anatomy("a coupon list", _LIST_PLACES, usual=_of_coupon)


def anatomy_of(payload: bytes) -> Sign1Anatomy | None:
    """The anatomy of a payload of a signed meter; None of one that is no COSE_Sign1."""
    if not is_sign1(payload):
        return None
    return COUPON_LIST if is_list(payload) else SIGNED_READING
