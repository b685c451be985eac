"""The simulated manufacturer: keys and key pairs of meters, derived from the secret of a run. No Django."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.simulator.hop_concentrator import HopConcentrator
from concentrators.simulator.keys import FIRST_EPOCH, TRANSFER_EPOCH, Key, envelope_of
from concentrators.simulator.link import DirectLink, KeyedLink, Link
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.masks import Masks, does_mask
from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.nonvolatile import NonVolatile
from concentrators.simulator.plan import Plan
from concentrators.simulator.signing import Signer
from concentrators.simulator.spool import Spool
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import derived_device_key
from keyvault.enrolment.certificates import CURVE_ED25519, IDENTITY_AUDIENCE, issue
from keyvault.schemes.agreed import agree, agreed_device_key

AGREEMENT_KEY = "simulator"  # the head-end's, which all runs share
_AGREED = ("agreed", "enrolled")
_DAY_S = 86_400
_UNKNOWN_PER_HOUR = 10_000_000  # an hour of a run may hold years of its meters


class Factory:
    """Makes the meters of a plan, and knows their keys of 32 octets.

    ``secret`` is the run's; ``head_end`` the public key (32 octets) that meters agree with and seal to, if any does;
    ``mask_authorities`` are the X25519 public keys of those that meters share masks with.
    """

    def __init__(
        self, plan: Plan, secret: bytes, head_end: bytes = b"", mask_authorities: Sequence[bytes] = ()
    ) -> None:
        self._plan, self._secret, self._head_end = plan, secret, head_end
        self._mask_authorities = mask_authorities

    def device_key(self, number: int) -> bytes:
        """Return the first key of a meter: random, derived, or agreed on."""
        source = self._plan.source_of(number)
        if source == "derived":
            return derived_device_key(self.fleet_key, self._plan.system_title(number), FIRST_EPOCH)
        if source in _AGREED:
            return self._agreed(number, FIRST_EPOCH)
        return self._draw(b"simulated device key", self._plan.system_title(number))

    def next_key(self, number: int) -> bytes:
        """The key set of epoch 2 of a meter that changes to it in the run; empty of all others."""
        title = self._plan.system_title(number)
        return self._draw(b"simulated next key", title) if self._plan.changes_key_set(number) else b""

    def transfer_key(self, number: int) -> bytes:
        """Return the transfer key of a meter; None if it takes no commands."""
        if not self._plan.takes_commands(number):
            return b""
        if self._plan.source_of(number) in _AGREED:
            return self._agreed(number, TRANSFER_EPOCH)
        return self._draw(b"simulated transfer key", self._plan.system_title(number))

    @property
    def fleet_key(self) -> bytes:
        """Return the fleet key of the run."""
        return self._draw(b"simulated fleet key", bytes.fromhex(self._plan.run))

    def concentrator_key(self, concentrator: int) -> bytes:
        """Return the first key of a concentrator."""
        return self._draw(b"simulated device key", self._plan.concentrator_title(concentrator))

    def concentrator_transfer_key(self, concentrator: int) -> bytes:
        """A concentrator's own transfer key."""
        return self._draw(b"simulated transfer key", self._plan.concentrator_title(concentrator))

    def public_key(self, number: int) -> bytes:
        """Return the public key of a meter that agrees on its keys."""
        return X25519PrivateKey.from_private_bytes(self._private(number)).public_key().public_bytes_raw()

    def authority(self) -> Ed25519PrivateKey:
        """Return the authority of the run, which certifies the keys of meters that enrol."""
        return Ed25519PrivateKey.from_private_bytes(self._draw(b"simulated authority", bytes.fromhex(self._plan.run)))

    def certificate(self, number: int, now_s: int, **other: Any) -> bytes:
        """A certificate of a meter, with other values than the usual ones; its number is of all that is in it."""
        plan = self._plan
        fields: dict[str, Any] = {
            "authority": self.authority(),
            "kid": plan.authority.encode(),
            "issuer": plan.authority,
            "system_title": plan.system_title(number),
            "audience": AGREEMENT_KEY,
            "public": self.public_key(number),
            "issued_s": now_s - _DAY_S,
            "expires_s": now_s + 365 * _DAY_S,
        }
        fields |= other
        named = repr(sorted((name, value) for name, value in fields.items() if name not in ("authority", "issued_s")))
        return issue(**{"cti": self._draw(b"simulated certificate", named.encode())[:8]} | fields)

    def masks(self, number: int) -> Masks | None:
        """What a meter hides its values with; None where its scheme does not."""
        if not does_mask(self._plan.scheme_of(number)):
            return None
        title, minutes = self._plan.system_title(number), self._plan.interval_of(number)
        return Masks(self._mask_pair(number), self._mask_authorities, title, minutes)

    def mask_certificate(self, number: int, now_s: int) -> bytes:
        """The certificate of a meter's mask pair, which mask authorities take it by."""
        public = X25519PrivateKey.from_private_bytes(self._mask_pair(number)).public_key().public_bytes_raw()
        return self.certificate(number, now_s, audience="mask", public=public)

    def _mask_pair(self, number: int) -> bytes:
        return self._draw(b"simulated mask pair", self._plan.system_title(number))

    def signer(self, number: int) -> Signer:
        """What signs as a meter does, with an empty memory."""
        return Signer(NonVolatile(), self._signing(number))

    def identity_certificate(self, number: int, now_s: int) -> bytes:
        """The certificate of the identity of a meter that signs."""
        public = self.signer(number).identity
        return self.certificate(number, now_s, audience=IDENTITY_AUDIENCE, public=public, curve=CURVE_ED25519)

    def link(self, spool: Spool) -> Link:
        """The local link of the run, with the concentrators' states in its file."""
        plan = self._plan
        if not plan.hold_keys:
            return DirectLink()
        store = LinkStore(spool)
        states = store.states()
        own = [Key(self.concentrator_key(n), AES_CCM_16_64_128, FIRST_EPOCH) for n in range(plan.concentrators)]
        return KeyedLink(
            store,
            [
                HopConcentrator(
                    plan.concentrator_title(n),
                    key,
                    states.get(n),
                    _UNKNOWN_PER_HOUR,
                    Key(self.concentrator_transfer_key(n), AES_CCM_16_64_128, TRANSFER_EPOCH),
                )
                for n, key in enumerate(own)
            ],
        )

    def boot(self, number: int, memory: Memory, clock_s: int) -> SimulatedMeter:
        """A meter with its memory; its clock (Unix seconds) is right.

        Whoever installs one in a run whose concentrators hold keys tells it which of them is its own.
        """
        plan = self._plan
        is_new = not memory.nonvolatile.cells
        meter = SimulatedMeter(
            plan.system_title(number),
            self.device_key(number),
            memory,
            self.transfer_key(number),
            alg=plan.algorithm_of(number),
            scheme=plan.scheme_of(number),
            head_end=self._head_end if envelope_of(plan.scheme_of(number)) == "sealed" else b"",
            private=self._private(number) if plan.source_of(number) in _AGREED else b"",
            signing=self._signing(number),
            clock_s=clock_s,
            masks=self.masks(number),
            next_key=self.next_key(number),
        )
        if is_new and plan.hold_keys and number < len(plan.meters) and not meter.key.pushes:
            meter.send_over(plan.concentrator_title(plan.home_of(number)))
        return meter

    def _agreed(self, number: int, epoch: int) -> bytes:
        z = agree(X25519PrivateKey.from_private_bytes(self._private(number)), self._head_end)
        return agreed_device_key(z, self._plan.system_title(number), epoch, self.public_key(number), self._head_end)

    def _signing(self, number: int) -> bytes:
        return self._draw(b"simulated signer", self._plan.system_title(number))

    def _private(self, number: int) -> bytes:
        return self._draw(b"simulated key pair", self._plan.system_title(number))

    def _draw(self, what: bytes, whose: bytes) -> bytes:
        return sha256(what + self._secret + whose).digest()
