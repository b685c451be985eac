"""What proves signatures to others: the lists that announced their coupons, and certificates of who signed those."""

from collections.abc import Collection
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows, int_array


class Proof(NamedTuple):
    """The COSE_Sign1s that signatures under some coupons are verified by; each of them once.

    ``second`` are signatures and lists that were refused, since they use or announce one of the coupons again.
    """

    certificates: list[bytes]
    lists: list[bytes]
    second: list[bytes]


def of_coupons(system_title: bytes, names: Collection[tuple[int, int]]) -> Proof:
    """The proof for coupons of a meter, each an epoch and a number. Two queries."""
    columns = int_array(epoch for epoch, _ in names), int_array(number for _, number in names)
    listed = fetch_rows(
        """SELECT DISTINCT l.id, l.octets, i.id, i.certificate
           FROM unnest(%s::int[], %s::bigint[]) AS n(epoch, number)
           JOIN keyvault_coupon c ON c.system_title = %s AND c.epoch = n.epoch AND c.number = n.number
           JOIN keyvault_couponlist l ON l.id = c.announced_id
           JOIN keyvault_meteridentity i ON i.id = l.identity_id ORDER BY l.id""",
        *columns,
        system_title,
    )
    disputes = fetch_rows(
        """SELECT DISTINCT d.id, d.second FROM unnest(%s::int[], %s::bigint[]) AS n(epoch, number)
           JOIN keyvault_coupon c ON c.system_title = %s AND c.epoch = n.epoch AND c.number = n.number
           JOIN keyvault_coupondispute d ON d.coupon_id = c.id ORDER BY d.id""",
        *columns,
        system_title,
    )
    certificates = {identity: certificate for _, _, identity, certificate in listed}
    return Proof(
        [octets for _, octets in sorted(certificates.items())],
        [octets for _, octets, _, _ in listed],
        [octets for _, octets in disputes],
    )
