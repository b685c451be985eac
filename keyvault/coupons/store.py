"""Coupons in the database: what a batch names is read at once, what it moved is written by compare-and-set."""

import hmac
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import ContendedError
from keyvault.coupons import identities
from keyvault.coupons.forms import Coupon, is_list
from keyvault.coupons.verifying import (
    CouponError,
    CouponName,
    Coupons,
    Identity,
    StandingCoupon,
    StandingList,
    names_of,
    parsed_list,
    parsed_reading,
)
from keyvault.replay_window_store import Care

logger = logging.getLogger(__name__)

_READ = """
SELECT c.id, c.system_title, c.epoch, c.number, c.point, c.commitment, c.spent_on, l.digest, l.public,
       floor(extract(epoch FROM l.received_at))::bigint
FROM keyvault_coupon c JOIN keyvault_couponlist l ON l.id = c.announced_id
WHERE c.id IN (
    SELECT s.id FROM unnest(%s::bytea[], %s::int[], %s::bigint[]) AS n(title, epoch, number)
    JOIN keyvault_coupon s ON s.system_title = n.title AND s.epoch = n.epoch AND s.number = n.number
    UNION SELECT id FROM keyvault_coupon WHERE point = ANY(%s::bytea[])
    UNION SELECT id FROM keyvault_coupon WHERE commitment = ANY(%s::bytea[])
)
"""
_LOCKED = " ORDER BY c.id FOR UPDATE OF c"


def read(named: Iterable[tuple[bytes, bytes]], care: Care) -> Coupons:
    """The coupons, identities and cut-off keys that COSE_Sign1s name: (kid of the frame, octets) each. Four queries.

    Under ``Care.LOCK`` the coupons stay locked until the transaction ends.
    """
    names: set[CouponName] = set()
    points: set[bytes] = set()
    for kid, octets in named:
        try:
            if is_list(octets):
                announced = parsed_list(kid, octets)
                names.update(names_of(announced))
                points.update(point for coupon in announced.coupons for point in coupon)
            else:
                signed = parsed_reading(kid, octets)
                names.add((signed.kid, signed.number))
        except CouponError:
            continue  # it is refused for that, and names nothing
    rows = fetch_rows(_READ + _LOCKED * (care is Care.LOCK), *_columns(sorted(names)), *[octets_array(points)] * 2)
    titles = octets_array({kid[:8] for kid, _ in names})
    cut_off = fetch_rows(
        """SELECT system_title, epoch FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND state = 'compromised'""",
        titles,
    )
    coupons = Coupons(identities=_identities(titles), cut_off={make_kid(title, epoch) for title, epoch in cut_off})
    for row in rows:
        _put(coupons, row)
    return coupons


def _identities(titles: str) -> Mapping[bytes, list[Identity]]:
    """The identities of meters (array of system titles), the newest first. Two queries, one where none stands.

    Rows that no act of a person made, or that were changed since, are left out, and logged.
    """
    rows = fetch_rows(
        """SELECT i.system_title, i.public, a.kid, i.cti, i.certificate, i.mac, i.id,
                  EXISTS (SELECT FROM keyvault_revokedcertificate r
                          WHERE r.cti = i.cti AND r.authority_id = i.authority_id)
           FROM keyvault_meteridentity i JOIN keyvault_authority a ON a.id = i.authority_id
           WHERE i.system_title = ANY(%s::bytea[]) ORDER BY i.id DESC""",
        titles,
    )
    found: defaultdict[bytes, list[Identity]] = defaultdict(list)
    for row, mac in zip(rows, identities.seal_all([row[:5] for row in rows]), strict=True):
        title, public, *_, stored, number, is_revoked = row
        if hmac.compare_digest(stored, mac):
            found[title].append(Identity(number, public, is_revoked))
        else:
            logger.error(
                "identity %d of meter %s was registered by nobody, or its row was changed: it signs no list"
                " (manage.py meter_identity confirm)",
                number,
                title.hex(),
            )
    return found


def _put(coupons: Coupons, row: tuple[Any, ...]) -> None:
    number, title, epoch, n, point, commitment, spent_on, *announced = row
    name = make_kid(title, epoch), n
    points = Coupon(point, commitment)
    coupons.standing[name] = StandingCoupon(number, points, StandingList(*announced), spent_on or b"")
    coupons.by_point.update(dict.fromkeys(points, name))


def save(coupons: Coupons) -> None:
    """Write what a batch moved, in the caller's transaction; no query for what did not move.

    ContendedError where a coupon was spent, or its epoch cut off, since it was read; IntegrityError where another
    transaction announced one.
    """
    if coupons.announced:
        _insert(coupons)
    spent = sorted((one.id, one.spent_on) for one in coupons.spent if one.id is not None)
    if spent:
        moved = fetch_rows(
            """UPDATE keyvault_coupon c SET spent_on = n.spent_on
               FROM (SELECT * FROM unnest(%s::bigint[], %s::bytea[]) AS n(id, spent_on) ORDER BY id) AS n
               WHERE c.id = n.id AND c.spent_on IS NULL AND NOT EXISTS (
                   SELECT FROM keyvault_devicekey k
                   WHERE k.system_title = c.system_title AND k.epoch = c.epoch AND k.state = 'compromised')
               RETURNING 1""",
            int_array(number for number, _ in spent),
            octets_array(spent_on for _, spent_on in spent),
        )
        if len(moved) < len(spent):
            raise ContendedError("a coupon was spent, or its epoch cut off, after it was read")
    if coupons.disputes:
        _insert_disputes(coupons)


def _insert(coupons: Coupons) -> None:
    """The lists with their coupons, which signatures of the same batch may have spent already."""
    lists = coupons.announced
    digests = [coupons.standing[names_of(one.announced)[0]].announced.digest for one in lists]
    ids = fetch_rows(
        """INSERT INTO keyvault_couponlist (identity_id, octets, digest, public, uplink_id, received_at)
           SELECT identity, octets, digest, public, uplink, to_timestamp(at_s)
           FROM unnest(%s::int[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bigint[], %s::bigint[])
                AS n(identity, octets, digest, public, uplink, at_s)
           ORDER BY digest RETURNING digest, id""",
        int_array(one.identity_id for one in lists),
        octets_array(one.octets for one in lists),
        octets_array(digests),
        octets_array(one.announced.public for one in lists),
        int_array(one.brought.uplink_id for one in lists),
        int_array(one.brought.at_s for one in lists),
    )
    of_digest = dict(ids)
    names = sorted(name for one in lists for name in names_of(one.announced))
    standing = [coupons.standing[name] for name in names]
    execute(
        """INSERT INTO keyvault_coupon (announced_id, system_title, epoch, number, point, commitment, spent_on)
           SELECT announced, title, epoch, number, point, commitment, nullif(spent_on, '')
           FROM unnest(%s::bigint[], %s::bytea[], %s::int[], %s::bigint[], %s::bytea[], %s::bytea[], %s::bytea[])
                AS n(announced, title, epoch, number, point, commitment, spent_on)""",
        int_array(of_digest[one.announced.digest] for one in standing),
        *_columns(names),
        octets_array(one.points.point for one in standing),
        octets_array(one.points.commitment for one in standing),
        octets_array(one.spent_on for one in standing),
    )


def _insert_disputes(coupons: Coupons) -> None:
    """Proof of double use; of each coupon and kind the first is kept."""
    disputes = coupons.disputes
    execute(
        """INSERT INTO keyvault_coupondispute (coupon_id, is_list, second, uplink_id, found_at)
           SELECT c.id, n.is_list <> 0, n.second, n.uplink, to_timestamp(n.at_s)
           FROM unnest(%s::bytea[], %s::int[], %s::bigint[], %s::int[], %s::bytea[], %s::bigint[], %s::bigint[])
                WITH ORDINALITY AS n(title, epoch, number, is_list, second, uplink, at_s, place)
           JOIN keyvault_coupon c ON c.system_title = n.title AND c.epoch = n.epoch AND c.number = n.number
           ORDER BY c.id, n.is_list, n.place
           ON CONFLICT (coupon_id, is_list) DO NOTHING""",
        *_columns([one.name for one in disputes]),
        int_array(int(one.is_list) for one in disputes),
        octets_array(one.second for one in disputes),
        int_array(one.brought.uplink_id for one in disputes),
        int_array(one.brought.at_s for one in disputes),
    )


def _columns(names: Iterable[CouponName]) -> tuple[str, str, str]:
    """Title, epoch and number of coupons, as arrays."""
    names = list(names)
    return (
        octets_array(kid[:8] for kid, _ in names),
        int_array(int.from_bytes(kid[8:], "big") for kid, _ in names),
        int_array(number for _, number in names),
    )


def with_identity(titles: Iterable[bytes]) -> set[bytes]:
    """Those of some titles that have an identity: their lists and signatures may be good by now. One query."""
    rows = fetch_rows(
        "SELECT DISTINCT system_title FROM keyvault_meteridentity WHERE system_title = ANY(%s::bytea[])",
        octets_array(titles),
    )
    return {row[0] for row in rows}
