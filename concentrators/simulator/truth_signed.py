"""The closing comparison of meters that sign: of each reading the stored signature, which proves it to others."""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256

from concentrators.simulator.closing_report import Closing
from concentrators.simulator.factory import Factory
from concentrators.simulator.packs import interval_payload
from concentrators.simulator.plan import Load, Plan
from concentrators.simulator.spool import Spool
from concentrators.simulator.truth_readings import meter_ids
from keyvault.cose.structures import make_kid
from keyvault.coupons import chameleon
from keyvault.coupons.forms import parse_reading
from keyvault.models import Coupon
from meters.models import Signature

_VERIFIED = 25  # one in so many is verified by what the head-end has; that takes ten times as long as to make it again


def compare_signed(closing: Closing, plan: Plan, load: Load, spool: Spool, factory: Factory) -> None:
    """Check that of each signed reading one signature is stored, and that it is what its meter signed.

    Each is made again with the secrets of its meter, which is possible in one way only, and its coupon must be spent on
    just those octets. Some are verified as others would do it: by the points of the coupon list.
    """
    ticks, lengths = spool.fact("tick") or 0, spool.lengths()
    expected = once = verified = fitting = 0
    differing: list[str] = []
    ids = meter_ids(plan, plan.signing)
    for done, number in enumerate(plan.signing, 1):
        said: set[bytes] = set()
        if number < len(plan.meters):
            said = {
                interval_payload(one.start_s, one.register_wh, one.energy_wh)
                for one in plan.intervals(load, number, ticks, lengths.get(number, ()))
            }
        found = _Found(factory, plan, number)
        found.look(ids[number])
        expected += len(said)
        once += sum(found.times[payload] == 1 for payload in said)
        verified, fitting = verified + found.verified, fitting + found.fitting
        differing += found.wrong
        closing.look("signatures of meters", done, len(plan.signing))
    closing.count("readings with one signature stored", expected, once)
    closing.count("stored signatures that were verified by their coupon lists", verified, fitting)
    closing.name(differing)


class _Found:
    """The stored signatures of one meter: how often each payload is signed, and what is wrong with them."""

    def __init__(self, factory: Factory, plan: Plan, number: int) -> None:
        self._signer, self._title, self._number = factory.signer(number), plan.system_title(number), number
        self.times: Counter[bytes] = Counter()
        self.verified = self.fitting = 0
        self.wrong: list[str] = []

    def look(self, meter_id: int) -> None:
        """Go through all that are stored."""
        rows = Signature.objects.filter(meter=meter_id).order_by("epoch", "number")
        coupons = Coupon.objects.filter(system_title=self._title).filter(spent_on__isnull=False)
        spent_on = {
            (epoch, number): bytes(digest or b"")
            for epoch, number, digest in coupons.values_list("epoch", "number", "spent_on").iterator()
        }
        some: dict[tuple[int, int], bytes] = {}
        for place, (epoch, number, octets) in enumerate(rows.values_list("epoch", "number", "octets").iterator()):
            self._look_at(epoch, number, bytes(octets), spent_on)
            if place % _VERIFIED == 0:
                some[epoch, number] = bytes(octets)
        self._verify(some)

    def _look_at(self, epoch: int, number: int, octets: bytes, spent_on: dict[tuple[int, int], bytes]) -> None:
        kid = make_kid(self._title, epoch)
        payload = parse_reading(octets).payload
        self.times[payload] += 1
        where = f"signature {number} of epoch {epoch} of meter {self._number}"
        if self._signer.sign_under(kid, number, payload) != octets:
            self.wrong.append(f"{where} is not what the meter signed")
        if spent_on.get((epoch, number)) != sha256(octets).digest():
            self.wrong.append(f"{where}: its coupon is not spent on it")

    def _verify(self, some: Mapping[tuple[int, int], bytes]) -> None:
        """Verify signatures, by epoch and number of their coupons; one query."""
        self.verified += len(some)
        coupons = Coupon.objects.filter(system_title=self._title, number__in={number for _, number in some})
        rows = coupons.values_list("epoch", "number", "point", "commitment", "announced__public")
        for epoch, number, *octets in rows:
            if (epoch, number) in some:
                signed = parse_reading(some[epoch, number])
                point, commitment, public = map(bytes, octets)
                hashed = chameleon.hash_of(signed.to_sign, point, public)
                self.fitting += chameleon.fits(hashed, signed.response, point, public, commitment)
