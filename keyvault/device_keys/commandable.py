"""Which devices take commands, and which ones: commands are AES-CCM in every scheme, and not every device has that."""

from collections.abc import Collection

from ami_headend.core.sql import fetch_rows, octets_array
from keyvault.schemes.table import ENVELOPES, MASKED, SCHEMES, schemes_of_content


def without_aes(system_titles: Collection[bytes]) -> set[bytes]:
    """Return which devices (system title, 8 octets) take neither commands of ours nor new keys.

    They have a hash alone: no transfer key, and a scheme that does not encrypt; or they speak another protocol. One
    query.
    """
    hashing = [one.name for one in SCHEMES if not _encrypts(one.envelope)]
    foreign = [one.name for one in SCHEMES if not one.is_commanded]
    rows = fetch_rows(
        """SELECT k.system_title FROM keyvault_devicekey k
           WHERE k.system_title = ANY(%s::bytea[]) AND k.epoch > 0 AND k.state = 'active'
             AND (k.scheme = ANY(%s::text[]) OR k.scheme = ANY(%s::text[]) AND NOT EXISTS (
                 SELECT 1 FROM keyvault_devicekey t WHERE t.system_title = k.system_title AND t.epoch = 0))""",
        octets_array(system_titles),
        foreign,
        hashing,
    )
    return {row[0] for row in rows}


def masking(system_titles: Collection[bytes]) -> set[bytes]:
    """Return which devices have an active key of a scheme that masks what they measure. One query."""
    rows = fetch_rows(
        """SELECT system_title FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND epoch > 0 AND state = 'active' AND scheme = ANY(%s::text[])""",
        octets_array(system_titles),
        [one.name for one in schemes_of_content(MASKED)],
    )
    return {row[0] for row in rows}


def _encrypts(envelope: str) -> bool:
    """Return whether an envelope encrypts: then one of its algorithms takes a nonce."""
    return any(line.nonce_octets for line in ENVELOPES[envelope].algorithms.values())
