"""What goes wrong with DLMS meters where it is another thing than with other meters. No Django."""

import random
from collections.abc import Callable

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.dlms_links import carried
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.packs import moved_columns, one_value
from concentrators.simulator.scheme_misbehaviour import Wrong
from concentrators.simulator.sealers import dlms_link
from concentrators.simulator.sent import Genuine
from concentrators.simulator.spool import Outgoing
from keyvault.cose.structures import MalformedError, MismatchError
from keyvault.schemes.dlms.framing import unwrap
from keyvault.schemes.dlms.security import control_of, is_authenticated
from keyvault.schemes.table import parse_frame

_TITLE_AT = 2  # in a general-glo-ciphering APDU
_SAID_AT = 10 + 3 + 5  # after title, length, SC and counter


class DlmsMischief:
    """Makes wrong frames from genuine ones of DLMS meters; ``actions`` go before those of other meters."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.actions: dict[Misbehaviour, Callable[[Genuine], Wrong]] = {
            Misbehaviour.BIT_FLIP: self._bit_flip,
            Misbehaviour.BAD_PAYLOAD: self._bad_payload,
            Misbehaviour.REGISTRY_MISMATCH: self._registry_mismatch,
            Misbehaviour.MOVED_COLUMN: self._moved_column,
        }

    def _bit_flip(self, genuine: Genuine) -> Wrong:
        """A bit is damaged on the link, whose checksum tells; or somebody changes it, and mends the checksum."""
        if self._rng.random() < 0.5:
            return self._sent(genuine, self._damaged(genuine.frame.octets), FailureKind.MALFORMED)
        apdu = bytearray(unwrap(genuine.frame.octets))
        is_tagged = is_authenticated(control_of(genuine.sender.key.alg))
        # Without a tag only what makes it no notification any more: other changes nobody can tell.
        places = range(_SAID_AT, len(apdu) if is_tagged else _SAID_AT + 1)
        verdict, places, bits = self._rng.choice(
            [
                (FailureKind.TAG_INVALID, places, range(8)),
                (FailureKind.UNKNOWN_DEVICE, range(_TITLE_AT, _TITLE_AT + 1), range(2, 8)),  # titles begin with 02
            ]
        )
        apdu[self._rng.choice(places)] ^= 1 << self._rng.choice(bits)
        link = dlms_link(genuine.sender.key.scheme, genuine.sender.system_title)
        return self._sent(genuine, carried(bytes(apdu), link), verdict)

    def _damaged(self, octets: bytes) -> bytes:
        while True:
            damaged = bytearray(octets)
            damaged[self._rng.randrange(len(octets))] ^= 1 << self._rng.randrange(8)
            if is_malformed(bytes(damaged)):
                return bytes(damaged)

    def _bad_payload(self, genuine: Genuine) -> Wrong:
        """No time, another unit than the register's; of authenticated frames also no data at all."""
        bad = [one_value(-60, 1), one_value(genuine.start_s, 1, unit="varh")]
        if is_authenticated(control_of(genuine.sender.key.alg)):
            bad.append(b"no pack")
        return self._sent(genuine, genuine.sender.seal(self._rng.choice(bad)), FailureKind.PAYLOAD_INVALID)

    def _registry_mismatch(self, genuine: Genuine) -> Wrong:
        """A value that is finer than a step of its register."""
        octets = genuine.sender.seal(one_value(genuine.start_s, 0.5))
        return self._sent(genuine, octets, FailureKind.REGISTRY_MISMATCH)

    def _moved_column(self, genuine: Genuine) -> Wrong:
        """A firmware whose notification has another form than any that a push profile is registered for."""
        moved = moved_columns(genuine.start_s, genuine.register_wh, genuine.energy_wh)
        return self._sent(genuine, genuine.sender.seal(moved), FailureKind.UNKNOWN_PROFILE)

    @staticmethod
    def _sent(genuine: Genuine, octets: bytes, verdict: FailureKind) -> Wrong:
        return [Outgoing(genuine.frame.concentrator, octets, verdict.value)]


def is_malformed(octets: bytes) -> bool:
    """Whether they are no frame at all; chance also makes some that are protected as no key could be."""
    try:
        parse_frame(octets)
    except MalformedError as error:
        return not isinstance(error, MismatchError)
    return False
