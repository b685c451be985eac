"""A meter's coupons of known answers, each computed by two independent programs, and what makes more of them."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.cose.structures import make_kid
from keyvault.coupons import chameleon
from keyvault.coupons.forms import Coupon, encode_reading, reading_to_sign, sign_list

TITLE = bytes.fromhex("0024befffe804ff1")
KID = make_kid(TITLE, 1)
PAYLOAD = bytes.fromhex(
    "82a520181a221a6955b9000069312d303a312e382e3001625768021a0012d687a3006a312d303a312e32392e3001625768021870"
)
NUMBER = 7


def scalar(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text), "little")


X = scalar("837a0767d350ac510a6bba9d7172da43e8ada446d899a674681e371d815ddd08")
Y = bytes.fromhex("13e4692037bdb74157f2f9fe76d2ad0ee86f4231f07d8b5a05fb62892745be74")
COUPON_SECRET = scalar("e7a6180bb96265a68320418f3d7c734775a778b3b70b6541b2057e092e878405")
POINT = bytes.fromhex("44e6b9e18e5d266c26d5a39469dd73be220e80228ffe75697def3a7f0d78cdae")
COMMITMENT_SECRET = scalar("62ef16a12600daac7b88b18f29e69056d90553dfff3b62a4e143333725d44202")
COMMITMENT = bytes.fromhex("f553dc1534986380271ff47597b01ddaa582aac7be454abf4bf14cf6cb2b15e5")
HASHED = scalar("268463c9f919f73f97f630e965e01088130afbea4d7d0358362e9a3042c65c0d")
RESPONSE = bytes.fromhex("c198277090b75eaf640dfc6bd12cc0181b1269589ff403922fd305d3b5d4eb09")
READING = bytes.fromhex(
    "d2845819a3013a00010001044a0024befffe804ff10001064400000007a05834" + PAYLOAD.hex() + "5820" + RESPONSE.hex()
)
IDENTITY = Ed25519PrivateKey.from_private_bytes(bytes(range(0xE0, 0x100)))
IDENTITY_PUBLIC = IDENTITY.public_key().public_bytes_raw()
LIST = bytes.fromhex(
    "d2844fa20132044a0024befffe804ff10001a058898673616d692d68656164656e6420636f75706f6e73480024befffe804ff142000107"
    "582013e4692037bdb74157f2f9fe76d2ad0ee86f4231f07d8b5a05fb62892745be74825820"
    "44e6b9e18e5d266c26d5a39469dd73be220e80228ffe75697def3a7f0d78cdae"
    "5820f553dc1534986380271ff47597b01ddaa582aac7be454abf4bf14cf6cb2b15e5"
    "584091f8cd5ed07a8fbc710c0cc5366a6a87d545de5b3a906565eb46a9262f7f9e5da7a0be95f6159f6e6e54f3259b2da9aee784089386c1"
    "f76e3f1be575b82afa06"
)


def secrets_of(number: int) -> tuple[int, int]:
    """k and t of a coupon of these tests; those of number 7 are the known ones."""
    if number == NUMBER:
        return COUPON_SECRET, COMMITMENT_SECRET
    return 2 * number + 1001, 3 * number + 5_000_001


def coupon(number: int) -> Coupon:
    k, t = secrets_of(number)
    return Coupon(chameleon.base_times(k), chameleon.times(t, Y))


def coupon_list(first: int = NUMBER, count: int = 1, kid: bytes = KID, signer: Ed25519PrivateKey = IDENTITY) -> bytes:
    """The list of coupons from a number on."""
    return sign_list(signer, kid, first, Y, [coupon(number) for number in range(first, first + count)])


def signed(payload: bytes = PAYLOAD, number: int = NUMBER, kid: bytes = KID) -> bytes:
    """A payload, signed under a coupon of these tests."""
    k, t = secrets_of(number)
    hashed = chameleon.hash_of(reading_to_sign(kid, number, payload), coupon(number).point, Y)
    return encode_reading(kid, number, payload, chameleon.respond(hashed, chameleon.ready(k, X), t))
