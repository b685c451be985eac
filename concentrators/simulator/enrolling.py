"""Meters that enrol by certificate before they send anything else, and attempts with wrong certificates. No Django."""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.factory import Factory
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.packs import event_payload
from concentrators.simulator.plan import Plan
from concentrators.simulator.sent import ACCEPTED, DUPLICATE
from concentrators.simulator.spool import ExtraValue, Outgoing
from meters.readings.obis import STANDARD_LOG

_CODE, _AFTER_S = 200, 7  # no event of a plan is of an odd second in that log
_DAY_S = 86_400


class Enrolments:
    """The enrolments of the meters of a run, with wrong attempts before and after."""

    def __init__(self, plan: Plan, factory: Factory, meters: Sequence[SimulatedMeter]) -> None:
        self._plan, self._factory, self._meters = plan, factory, meters

    def frames(self, now_s: int) -> list[Outgoing]:
        """Return all frames in order: wrong ones are verified before or after the right one."""
        frames: list[Outgoing] = []
        tried = self._plan.tried_with_wrong_certificates
        for number in self._plan.enrolled:
            wrong = self._wrong(number, now_s) if number in tried else ([], [])
            home = self._plan.home_of(number)
            before = [Outgoing(home, octets, verdict) for octets, verdict in wrong[0]]
            octets = self._meters[number].enrol(self._factory.certificate(number, now_s), self._payload())
            right = Outgoing(home, octets, ACCEPTED, behind=before[-1] if before else None)
            after = [(octets, DUPLICATE), *wrong[1]]
            frames += [*before, right, *(Outgoing(home, octets, verdict, behind=right) for octets, verdict in after)]
        return frames

    def said(self) -> list[ExtraValue]:
        """Return the events that the meters send as they enrol."""
        return [ExtraValue(number, STANDARD_LOG, self._at_s, _CODE) for number in self._plan.enrolled]

    @property
    def _at_s(self) -> int:
        return self._plan.start_s + _AFTER_S

    def _payload(self) -> bytes:
        return event_payload(self._at_s, STANDARD_LOG, _CODE)

    def _wrong(self, number: int, now_s: int) -> tuple[list[tuple[bytes, str]], list[tuple[bytes, str]]]:
        """Return the frames that are rejected before the meter has enrolled, and after."""
        meter, certificate = self._meters[number], self._factory.certificate
        other = next(one for one in range(len(self._meters)) if one != number)
        stranger = Ed25519PrivateKey.generate()
        before = [
            (certificate(number, now_s, expires_s=now_s - _DAY_S), FailureKind.CERTIFICATE_EXPIRED),
            (revoked_certificate(self._factory, number, now_s), FailureKind.CERTIFICATE_REVOKED),
            (certificate(number, now_s, system_title=self._plan.system_title(other)), FailureKind.CERTIFICATE_INVALID),
            (certificate(number, now_s, audience="another"), FailureKind.CERTIFICATE_INVALID),
            (certificate(number, now_s, authority=stranger), FailureKind.CERTIFICATE_INVALID),
        ]
        after = [(certificate(number, now_s, expires_s=now_s + _DAY_S), FailureKind.ALREADY_ENROLLED)]
        first, then = ([(meter.enrol(one, self._payload()), str(kind)) for one, kind in of] for of in (before, after))
        has_keys = [one for place, one in enumerate(self._meters) if self._plan.source_of(place) != "enrolled"]
        if has_keys:  # a certificate that was used, by another meter, whose own keys stand
            used = has_keys[0].enrol(certificate(number, now_s), self._payload())
            then.append((used, str(FailureKind.ALREADY_ENROLLED)))
        return first, then


def revoked_certificate(factory: Factory, number: int, now_s: int) -> bytes:
    """The certificate of a meter that its authority revoked; its number is the same at any time."""
    return factory.certificate(number, now_s, expires_s=_REVOKED_EXPIRES_S)


_REVOKED_EXPIRES_S = 4_000_000_000
