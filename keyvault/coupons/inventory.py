"""How the coupons of a meter stand, for its page."""

from datetime import datetime
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows
from keyvault.coupons.forms import LIST_MAX_COUPONS
from keyvault.schemes.table import SCHEMES


class CouponsStanding(NamedTuple):
    """Coupons of a meter: those left and spent, the last list, who certified the identity, proof of double use."""

    left: int
    spent: int
    listed_at: datetime | None
    certified_by: str | None
    disputed: int


def standing(system_title: bytes) -> CouponsStanding:
    """How the coupons of a meter stand; one query."""
    rows = fetch_rows(
        """SELECT count(c.id) FILTER (WHERE c.spent_on IS NULL), count(c.spent_on),
                  (SELECT max(l.received_at) FROM keyvault_couponlist l JOIN keyvault_meteridentity i
                   ON i.id = l.identity_id WHERE i.system_title = t.title),
                  (SELECT a.issuer FROM keyvault_meteridentity i JOIN keyvault_authority a ON a.id = i.authority_id
                   WHERE i.system_title = t.title ORDER BY i.issued_at DESC, i.id DESC LIMIT 1),
                  (SELECT count(*) FROM keyvault_coupondispute d JOIN keyvault_coupon s ON s.id = d.coupon_id
                   WHERE s.system_title = t.title)
           FROM (VALUES (%s::bytea)) AS t(title) LEFT JOIN keyvault_coupon c ON c.system_title = t.title
           GROUP BY t.title""",
        system_title,
    )
    return CouponsStanding(*rows[0])


def meters_by_coupons_left() -> dict[str, int]:
    """Count devices that sign by the coupons that they have left: none, up to a list's worth, or more.

    One query, which reads the signing devices' keys and at most one coupon more than a list has of each.
    """
    signing = [scheme.name for scheme in SCHEMES if scheme.content == "signed"]
    rows = fetch_rows(
        """SELECT least(n.coupons, 1) + (n.coupons > %s)::int, count(*)
           FROM keyvault_devicekey k, LATERAL (
               SELECT count(*)::int FROM (SELECT FROM keyvault_coupon c
                                          WHERE c.system_title = k.system_title AND c.spent_on IS NULL LIMIT %s) AS few
           ) AS n(coupons)
           WHERE k.scheme = ANY(%s) AND k.epoch > 0 AND k.state = 'active' GROUP BY 1""",
        LIST_MAX_COUPONS,
        LIST_MAX_COUPONS + 1,
        signing,
    )
    counted = dict(rows)
    return {words: counted.get(place, 0) for place, words in enumerate(("none", f"1 to {LIST_MAX_COUPONS}", "more"))}


class ProofOfDoubleUse(NamedTuple):
    """What a meter signed, or announced, twice: the coupon, and the digests (SHA-256) of both COSE_Sign1s.

    ``octets`` are the second one.
    """

    epoch: int
    number: int
    is_list: bool
    first: bytes
    second: bytes
    octets: bytes


def proofs(system_title: bytes, uplink_id: int) -> list[ProofOfDoubleUse]:
    """The proofs of double use that an uplink brought of a meter; one query."""
    rows = fetch_rows(
        """SELECT c.epoch, c.number, d.is_list, CASE WHEN d.is_list THEN l.digest ELSE c.spent_on END, sha256(d.second),
                  d.second
           FROM keyvault_coupondispute d JOIN keyvault_coupon c ON c.id = d.coupon_id
           JOIN keyvault_couponlist l ON l.id = c.announced_id
           WHERE c.system_title = %s AND d.uplink_id = %s ORDER BY c.epoch, c.number""",
        system_title,
        uplink_id,
    )
    return [ProofOfDoubleUse(*row) for row in rows]
