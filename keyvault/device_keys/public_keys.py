"""The public keys of meters (X25519): each belongs to one meter, and never to another."""

from collections.abc import Collection, Mapping

from ami_headend.core.sql import fetch_rows, octets_array
from keyvault import journal
from keyvault.device_keys.errors import ProvisioningError
from keyvault.schemes.agreed import AgreementError, check_public


def register(publics: Mapping[bytes, bytes], tell: journal.Append = journal.append) -> None:
    """Register public keys (32 octets) of meters (system title, 8 octets), in the caller's transaction.

    ProvisioningError for a key that is of low order, or belongs to another meter. Two queries. ``tell`` takes the
    records for the key journal, before that transaction commits.
    """
    of: dict[bytes, bytes] = {}
    for title, public in publics.items():
        try:
            check_public(public)
        except AgreementError as error:
            raise ProvisioningError(f"device {title.hex()}: {error}") from None
        other = of.setdefault(public, title)
        if other != title:
            raise ProvisioningError(f"device {title.hex()}: its public key is that of {other.hex()}, too")
    put(of, tell)
    for public, owner in owners(of).items():
        if owner != of[public]:
            raise ProvisioningError(f"device {of[public].hex()}: {refusal(owner)}")


def refusal(owner: bytes) -> str:
    """Say why a meter cannot have a public key that another one has (system title; empty: the head-end itself)."""
    if not owner:
        return "its public key is the head-end's own"
    return f"its public key is that of {owner.hex()}. Each meter has a pair of its own"


def owners(publics: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the owner of each public key (32 octets): a system title, or empty for the head-end itself.

    A key without an owner is left out. One query.
    """
    rows = fetch_rows(
        """SELECT public, system_title FROM keyvault_devicepublickey WHERE public = ANY(%s::bytea[])
           UNION ALL SELECT public, ''::bytea FROM keyvault_agreementkey WHERE public = ANY(%s::bytea[])""",
        octets_array(publics),
        octets_array(publics),
    )
    return dict(rows)


def put(of: Mapping[bytes, bytes], tell: journal.Append = journal.append) -> None:
    """Store the owner (system title) of each public key; an existing row stays as it is."""
    titles = [of[public] for public in sorted(of)]  # sorted: two transactions with the same keys do not deadlock
    new = fetch_rows(
        """INSERT INTO keyvault_devicepublickey (public, system_title, created_at)
           SELECT public, title, now() FROM unnest(%s::bytea[], %s::bytea[]) AS n(public, title)
           ON CONFLICT (public) DO NOTHING RETURNING public, system_title""",
        octets_array(sorted(of)),
        octets_array(titles),
    )
    if new:
        tell("public_keys", new)
