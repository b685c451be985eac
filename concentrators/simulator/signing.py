"""How a simulated meter signs readings: with an identity, and one announced coupon for each signature. No Django."""

from collections import deque
from hashlib import sha256, sha512
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from concentrators.simulator.nonvolatile import CounterRecord, NonVolatile
from keyvault.coupons import chameleon
from keyvault.coupons.chameleon import GROUP_ORDER
from keyvault.coupons.forms import LIST_MAX_COUPONS, Coupon, encode_reading, reading_to_sign, sign_list

_UNANNOUNCED = 2**31  # numbers from here on are never announced


class _Ready(NamedTuple):
    """What signing under a coupon takes: its kid and number, K, k x^-1 modulo l, and t."""

    kid: bytes
    number: int
    point: bytes
    prepared: int
    t: int


class Signer:
    """A meter's signing secrets, all derived from 32 octets, and the number of its next coupon.

    Numbers are reserved ahead as counters are: a record in non-volatile memory (epoch in 2 octets, number in 6) is
    beyond a list before the list is sent. After a power failure the rest of a list is lost, which does no harm.
    """

    __slots__ = ("_identity", "_inverse", "_left", "_lists", "_public", "_record", "_secret", "_x", "last")

    def __init__(self, memory: NonVolatile, secret: bytes) -> None:
        self._record, self._secret = CounterRecord(memory, "coupons"), secret
        self._record.repair()
        self._identity = Ed25519PrivateKey.from_private_bytes(sha256(secret + b"identity").digest())
        self._x = self._scalar(b"x")
        self._inverse = pow(self._x, -1, GROUP_ORDER)
        self._public = b""
        self._left: deque[_Ready] = deque()
        self._lists: list[bytes] = []
        self.last: tuple[bytes, int] | None = None  # the coupon that was spent last: kid (10 octets) and number

    @property
    def identity(self) -> bytes:
        """The Ed25519 public key (32 octets) that is certified for the meter."""
        return self._identity.public_key().public_bytes_raw()

    def sign(self, kid: bytes, payload: bytes) -> bytes:
        """Sign a payload under the next coupon of the epoch of ``kid``; if none is left, make a new list."""
        if not self._left or self._left[0].kid != kid:
            self._left.clear()
            self._announce(kid)
        ready = self._left.popleft()
        self.last = ready.kid, ready.number
        return self._signed(ready, payload)

    def sign_under(self, kid: bytes, number: int, payload: bytes) -> bytes:
        """Sign a payload under any coupon; except by ``sign``, only for simulated faults."""
        k, t = self._secrets(kid, number)
        return self._signed(_Ready(kid, number, chameleon.base_times(k), k * self._inverse % GROUP_ORDER, t), payload)

    def sign_unannounced(self, kid: bytes, number: int, payload: bytes) -> bytes:
        """Sign a payload under a coupon that is in no list; only for simulated faults."""
        return self.sign_under(kid, _UNANNOUNCED + number, payload)

    def other_list(self) -> bytes:
        """Return another list for the coupon that was spent last; only for simulated faults."""
        if self.last is None:
            raise LookupError("nothing was signed yet")
        kid, number = self.last
        return sign_list(
            self._identity, kid, number, self._y, [self._coupon(*self._secrets(kid, _UNANNOUNCED + number))]
        )

    def take_lists(self) -> list[bytes]:
        """Return the payloads of lists made since the last call; they are sent before what was signed under them."""
        lists, self._lists = self._lists, []
        return lists

    def _announce(self, kid: bytes) -> None:
        epoch = kid[8:]
        body = self._record.load() or bytes(8)
        first = int.from_bytes(body[2:], "big") if body[:2] == epoch else 0
        numbers = range(first, first + LIST_MAX_COUPONS)
        self._record.store(epoch + numbers.stop.to_bytes(6, "big"))
        coupons = []
        for number in numbers:
            k, t = self._secrets(kid, number)
            coupons.append(self._coupon(k, t))
            self._left.append(_Ready(kid, number, coupons[-1].point, k * self._inverse % GROUP_ORDER, t))
        self._lists.append(sign_list(self._identity, kid, first, self._y, coupons))

    def _signed(self, ready: _Ready, payload: bytes) -> bytes:
        kid, number, point, prepared, t = ready
        hashed = chameleon.hash_of(reading_to_sign(kid, number, payload), point, self._y)
        return encode_reading(kid, number, payload, chameleon.respond(hashed, prepared, t))

    @property
    def _y(self) -> bytes:
        self._public = self._public or chameleon.base_times(self._x)
        return self._public

    def _coupon(self, k: int, t: int) -> Coupon:
        return Coupon(chameleon.base_times(k), chameleon.base_times(t * self._x % GROUP_ORDER))

    def _secrets(self, kid: bytes, number: int) -> tuple[int, int]:
        """Return k and t of a coupon, from a pseudorandom function."""
        name = kid + number.to_bytes(4, "big")
        return self._scalar(b"k" + name), self._scalar(b"t" + name)

    def _scalar(self, name: bytes) -> int:
        return 1 + int.from_bytes(sha512(self._secret + name).digest(), "big") % (GROUP_ORDER - 1)
