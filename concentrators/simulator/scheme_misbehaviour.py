"""What goes wrong with schemes: sessions, agreement keys, hop tags, and concentrators that lie. No Django."""

import random
from collections.abc import Callable

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.hop_concentrator import HopFault, Reporter, SumPlace
from concentrators.simulator.keys import envelope_of
from concentrators.simulator.link import KeyedLink, Link
from concentrators.simulator.masks import does_mask
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.misbehaviour_kinds import Misbehaviour
from concentrators.simulator.packs import base_name, interval_payload, register_payload
from concentrators.simulator.plan import Plan
from concentrators.simulator.sealers import Place, ccm, sealer
from concentrators.simulator.sent import Genuine, OverLink, other_values
from concentrators.simulator.spool import Outgoing
from keyvault.schemes.hop_tag import HopTagKey
from keyvault.schemes.session import kid_context
from meters.readings.obis import LOAD_PROFILE

_ENC_HEAD = b"\xa1\x23\x58\x20"  # before the ephemeral public key of 32 octets
_ANOTHER_PUBLIC = bytes((9,)) + bytes(31)  # the base point, which is no version's
# Points of small order (RFC 7748 section 6.1): with them Z is all zero.
_SMALL_ORDER = (bytes(32), bytes((1,)) + bytes(31))

Wrong = list[Outgoing | OverLink]


class SchemeMischief:
    """Makes wrong frames from genuine ones by their scheme; none if a misbehaviour does not apply to the scheme.

    ``lies`` are the sums, by concentrator and place, that are to be reported wrongly.
    """

    def __init__(self, plan: Plan, rng: random.Random, link: Link) -> None:
        self._plan, self._rng = plan, rng
        self._concentrators = link.concentrators if isinstance(link, KeyedLink) else ()
        self._victim: SimulatedMeter | None = None
        self.lies: set[tuple[int, SumPlace]] = set()
        self.actions: dict[Misbehaviour, Callable[[Genuine], Wrong]] = {
            Misbehaviour.OPENED_METER: self._opened_meter,
            Misbehaviour.SESSION_AHEAD: self._session_ahead,
            Misbehaviour.CONTEXT_REPEATED: self._context_repeated,
            Misbehaviour.PLAIN_VALUE: self._plain_value,
            Misbehaviour.SMALL_ORDER: self._small_order,
            Misbehaviour.WRONG_VERSION: self._wrong_version,
            Misbehaviour.HOP_TAG_FORGED: self._hop_tag_forged,
            Misbehaviour.HOP_TAG_MISDIRECTED: self._hop_tag_misdirected,
            Misbehaviour.HOP_TAG_MISSING: self._hop_tag_missing,
            Misbehaviour.HOP_TAG_WORN: self._hop_tag_worn,
            Misbehaviour.HOP_REPLAY: self._hop_replay,
            Misbehaviour.READING_PAST_CONCENTRATOR: self._reading_past_concentrator,
            Misbehaviour.FOREIGN_REPORT: self._foreign_report,
            Misbehaviour.LYING_SUM: self._lying_sum,
            Misbehaviour.SIGNATURE_FORGED: self._signature_forged,
            Misbehaviour.COUPON_UNKNOWN: self._coupon_unknown,
            Misbehaviour.COUPON_REUSED: self._coupon_reused,
            Misbehaviour.COUPON_LIST_TWICE: self._coupon_list_twice,
        }

    def _opened_meter(self, genuine: Genuine) -> Wrong:
        """Somebody with the key of one meter tries to send frames of another meter, and frames in its name."""
        opened, self._victim = genuine.meter, self._victim or genuine.meter
        victim, self._victim = self._victim, opened
        if victim.system_title == opened.system_title or opened.key.scheme == "hop":
            return []
        if self._rng.random() < 0.5:
            payload = interval_payload(
                genuine.start_s, genuine.register_wh, genuine.energy_wh, base_name(victim.system_title)
            )
            return self._to_head_end(genuine, opened.seal(payload), FailureKind.IDENTITY_MISMATCH)
        key = victim.key._replace(octets=opened.key.octets)
        seal = ccm if key.scheme == "hop" else sealer
        octets = seal(key, victim.system_title, self._context(genuine.start_s)).seal(2**30, other_values(genuine))
        return self._to_head_end(genuine, octets, FailureKind.TAG_INVALID)

    # --- sessions ---------------------------------------------------------------------------------

    def _session_ahead(self, genuine: Genuine) -> Wrong:
        """A session that claims to begin in two years."""
        meter = genuine.meter
        if envelope_of(meter.key.scheme) != "session":
            return []
        session = sealer(meter.key, meter.system_title, self._context(genuine.start_s + self._plan.ahead_s))
        return self._to_head_end(genuine, session.seal(0, other_values(genuine)), FailureKind.CLOCK_SKEW)

    def _context_repeated(self, genuine: Genuine) -> Wrong:
        """A meter that begins the same session again: its counters are repeated with other contents."""
        meter = genuine.meter
        if envelope_of(meter.key.scheme) != "session":
            return []
        session = sealer(meter.key, meter.system_title, meter.place)
        octets = session.seal(genuine.counter, meter.content(other_values(genuine)))
        return self._to_head_end(genuine, octets, FailureKind.COUNTER_REUSED, behind=genuine.frame)

    def _context(self, opened_at_s: int) -> Place:
        return Place(kid_context(opened_at_s, self._rng.randbytes(8)))

    # --- masked ---------------------------------------------------------------------------------

    def _plain_value(self, genuine: Genuine) -> Wrong:
        """A meter that masks sends a plain value, which would reveal what the masks hide."""
        meter = genuine.meter
        if not does_mask(meter.key.scheme):
            return []
        octets = meter.seal(register_payload(genuine.start_s, genuine.register_wh))
        return self._to_head_end(genuine, octets, FailureKind.ALGORITHM_MISMATCH)

    # --- sealed -----------------------------------------------------------------------------------

    def _small_order(self, genuine: Genuine) -> Wrong:
        """An ephemeral key with which every Z is the same: such a frame must not open."""
        if envelope_of(genuine.meter.key.scheme) != "sealed":
            return []
        octets = bytearray(genuine.meter.seal(other_values(genuine)))
        enc_at = octets.index(_ENC_HEAD) + len(_ENC_HEAD)
        octets[enc_at : enc_at + 32] = self._rng.choice(_SMALL_ORDER)
        return self._to_head_end(genuine, bytes(octets), FailureKind.TAG_INVALID)

    def _wrong_version(self, genuine: Genuine) -> Wrong:
        """A frame that is sealed to another agreement key than the meter's key needs."""
        meter = genuine.meter
        if envelope_of(meter.key.scheme) != "sealed":
            return []
        other = sealer(meter.key._replace(head_end=_ANOTHER_PUBLIC), meter.system_title, meter.place)
        octets = other.seal(meter.next_counter(), other_values(genuine))
        return self._to_head_end(genuine, octets, FailureKind.TAG_INVALID)

    # --- the local link ---------------------------------------------------------------------------

    def _hop_tag_forged(self, genuine: Genuine) -> Wrong:
        """Garbage in the name of a meter: it costs the head-end nothing."""
        if not self._concentrators or not self._is_known(genuine):
            return []
        impostor = genuine.meter.impostor(self._rng.randbytes(16))
        return self._over_link(genuine, impostor.wear_tag(impostor.seal_event(other_values(genuine))))

    def _hop_tag_misdirected(self, genuine: Genuine) -> Wrong:
        """A tag that the meter made for another concentrator."""
        if len(self._concentrators) < 2 or not self._is_known(genuine):
            return []
        meter = genuine.meter
        other = self._concentrators[(genuine.frame.concentrator + 1) % len(self._concentrators)].system_title
        tag = HopTagKey.of_device(meter.key.octets, meter.system_title, meter.epoch, other)
        return self._over_link(genuine, tag.seal_tag(meter.seal_event(other_values(genuine))))

    def _hop_tag_missing(self, genuine: Genuine) -> Wrong:
        """A frame without a hop tag, of a meter whose frames have one."""
        meter = genuine.meter
        if not self._concentrators or not self._is_known(genuine) or meter.key.scheme == "hop":
            return []
        return self._over_link(genuine, meter.seal(other_values(genuine)), HopFault.UNTAGGED)

    def _hop_tag_worn(self, genuine: Genuine) -> Wrong:
        """A concentrator that does not remove a hop tag."""
        meter = genuine.meter
        if not meter.concentrator:
            return []
        return self._to_head_end(genuine, meter.wear_tag(genuine.frame.octets), FailureKind.MALFORMED)

    def _hop_replay(self, genuine: Genuine) -> Wrong:
        """A repeated frame of scheme ``hop``: its concentrator has a replay window of its own."""
        if genuine.meter.key.scheme != "hop" or not self._is_known(genuine):
            return []
        return self._over_link(genuine, genuine.heard, HopFault.REPLAYED)

    def _reading_past_concentrator(self, genuine: Genuine) -> Wrong:
        """A meter of scheme ``hop`` that sends a reading to the head-end directly."""
        if genuine.meter.key.scheme != "hop":
            return []
        octets = genuine.meter.seal_event(other_values(genuine))
        return self._to_head_end(genuine, octets, FailureKind.ALGORITHM_MISMATCH)

    def _foreign_report(self, genuine: Genuine) -> Wrong:
        """A concentrator that reports for a meter of another concentrator, or one that seals for the head-end."""
        others = [one for number, one in enumerate(self._concentrators) if number != genuine.frame.concentrator]
        if genuine.meter.key.scheme != "hop":
            others = list(self._concentrators)
        if not others:
            return []
        reporter = Reporter(self._rng.choice(others), genuine.meter.system_title)
        return self._to_head_end(genuine, reporter.seal(other_values(genuine)), FailureKind.IDENTITY_MISMATCH)

    def _lying_sum(self, genuine: Genuine) -> Wrong:
        """A sum that differs from the reported readings: no verdict, but the head-end shows both figures."""
        if self._concentrators and genuine.meter.key.scheme in ("hop", "mac"):
            place = SumPlace(LOAD_PROFILE, genuine.interval_minutes, genuine.start_s)
            self.lies.add((genuine.frame.concentrator, place))
        return []

    # --- signed -----------------------------------------------------------------------------------

    def _signature_forged(self, genuine: Genuine) -> Wrong:
        """A signature by somebody who has the meter's device key, but not its signing secrets."""
        meter = genuine.meter
        if not meter.key.signs:
            return []
        forged = bytearray(meter.signer.sign(meter.kid, other_values(genuine)))
        forged[-1] ^= 1
        return self._to_head_end(genuine, meter.seal_event(bytes(forged)), FailureKind.SIGNATURE_INVALID)

    def _coupon_unknown(self, genuine: Genuine) -> Wrong:
        """A signature under a coupon that the meter never announced."""
        meter = genuine.meter
        if not meter.key.signs:
            return []
        signed = meter.signer.sign_unannounced(meter.kid, genuine.counter, other_values(genuine))
        return self._to_head_end(genuine, meter.seal_event(signed), FailureKind.COUPON_UNKNOWN)

    def _coupon_reused(self, genuine: Genuine) -> Wrong:
        """A meter that signs twice under one coupon, as a copied meter does."""
        meter = genuine.meter
        if not meter.key.signs or meter.signer.last is None:
            return []
        octets = meter.seal_event(meter.signer.sign_under(*meter.signer.last, other_values(genuine)))
        return self._to_head_end(genuine, octets, FailureKind.COUPON_REUSED, behind=genuine.frame)

    def _coupon_list_twice(self, genuine: Genuine) -> Wrong:
        """A meter that announces a coupon again, with other points."""
        meter = genuine.meter
        if not meter.key.signs or meter.signer.last is None:
            return []
        octets = meter.seal_event(meter.signer.other_list())
        return self._to_head_end(genuine, octets, FailureKind.COUPON_REUSED, behind=genuine.frame)

    # --- what they share ---------------------------------------------------------------------------

    def _is_known(self, genuine: Genuine) -> bool:
        """Whether the concentrator that hears the meter has its keys."""
        return self._concentrators[genuine.frame.concentrator].knows(genuine.meter.kid)

    @staticmethod
    def _over_link(genuine: Genuine, octets: bytes, reason: HopFault = HopFault.TAG_INVALID) -> Wrong:
        return [OverLink(genuine.frame.concentrator, octets, reason.value)]

    @staticmethod
    def _to_head_end(genuine: Genuine, octets: bytes, verdict: str, behind: Outgoing | None = None) -> Wrong:
        return [Outgoing(genuine.frame.concentrator, octets, str(verdict), behind=behind)]
