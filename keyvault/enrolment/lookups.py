"""Looks up the certificates and titles of enrolment frames in the database, with a fixed number of queries."""

import hmac
import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault import approvals
from keyvault.audit import chain
from keyvault.device_keys import public_keys
from keyvault.enrolment.certificate_checks import PinnedAuthority, Standing
from keyvault.enrolment.certificates import Certificate

logger = logging.getLogger(__name__)

# The last act on an authority ``a``, as the audit chain says; an index finds it.
_LAST_ACT = f"""(SELECT r.act FROM keyvault_auditrecord r
                 WHERE r.act IN ('{approvals.PIN_AUTHORITY}', '{approvals.UNPIN_AUTHORITY}')
                   AND r.subject ->> 'kid' = encode(a.kid, 'hex') ORDER BY r.number DESC LIMIT 1)"""


class Awaited(NamedTuple):
    """A meter that may enrol: the scheme and algorithm of the epoch to come."""

    scheme: str
    algorithm: int


class AgreementVersion(NamedTuple):
    """A stored version of an agreement key, for ``agreement_keys.open_pair``."""

    id: int
    name: str
    version: int
    wrapped: bytes
    public: bytes


class Known(NamedTuple):
    """Pinned authorities by kid, versions of agreement keys, and stored titles, certificate numbers and public keys.

    ``epochs`` are the newest epochs by title. A certificate is numbered by its authority's kid and cti: ``enrolled``
    has those numbers by title and epoch, ``used`` all of them. ``revoked`` are pairs of an authority's id and a cti.
    """

    authorities: dict[bytes, PinnedAuthority]
    versions: list[AgreementVersion]
    awaited: dict[bytes, Awaited]
    epochs: dict[bytes, int]
    enrolled: dict[tuple[bytes, int], tuple[bytes, bytes]]
    newest_s: dict[bytes, int]
    used: set[tuple[bytes, bytes]]
    revoked: set[tuple[int, bytes]]
    public_of: dict[bytes, bytes]

    def standing(self, certificate: Certificate) -> Standing:
        """Return what is known about one certificate."""
        authority = self.authorities.get(certificate.signed.kid)
        return Standing(
            authority,
            authority is not None and (authority.id, certificate.cti) in self.revoked,
            certificate.number in self.used,
            self.newest_s.get(certificate.system_title),
            {version.name for version in self.versions},
            self.public_of.get(certificate.public),
        )

    def versions_for(self, audience: str) -> list[AgreementVersion]:
        """Return the versions that a meter may have been made for, the newest first."""
        return [version for version in self.versions if version.name == audience]


def look_up(titles: Collection[bytes], certificates: Collection[Certificate], *, locks: bool = True) -> Known:
    """Look everything up, in the caller's transaction, which locks the authorities, so that a revocation waits.

    Without ``locks`` nothing is locked, for a transaction that writes nothing.
    """
    named, numbers = octets_array(titles), octets_array(one.cti for one in certificates)
    authorities = fetch_rows(
        f"""SELECT kid, id, issuer, public, floor(extract(epoch FROM expires_at))::bigint,
                   floor(extract(epoch FROM unpinned_at))::bigint, mac, {_LAST_ACT} FROM keyvault_authority a
            WHERE kid = ANY(%s::bytea[]) {"FOR SHARE OF a" * locks}""",
        octets_array({one.signed.kid for one in certificates}),
    )
    versions = fetch_rows(
        """SELECT id, name, version, wrapped, public FROM keyvault_agreementkey
           WHERE state <> 'cut_off' AND name IN (SELECT name FROM keyvault_agreementkey WHERE state = 'active')
           ORDER BY version DESC"""
    )
    awaited = fetch_rows(
        "SELECT system_title, scheme, algorithm FROM keyvault_awaitedenrolment WHERE system_title = ANY(%s::bytea[])",
        named,
    )
    epochs = fetch_rows(
        """SELECT system_title, max(epoch) FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[])
           GROUP BY system_title""",
        named,
    )
    revoked = fetch_rows(
        "SELECT authority_id, cti FROM keyvault_revokedcertificate WHERE cti = ANY(%s::bytea[])", numbers
    )
    public_of = public_keys.owners({one.public for one in certificates})
    # Last, so that it sees every enrolment by the same certificate that any query above saw.
    enrolled = fetch_rows(
        """SELECT e.system_title, e.epoch, a.kid, e.cti, extract(epoch FROM e.issued_at)::bigint
           FROM keyvault_enrolment e JOIN keyvault_authority a ON a.id = e.authority_id
           WHERE e.system_title = ANY(%s::bytea[]) OR e.cti = ANY(%s::bytea[])""",
        named,
        numbers,
    )
    newest: dict[bytes, int] = {}
    for title, _, _, _, issued_s in enrolled:
        newest[title] = max(issued_s, newest.get(title, 0))
    return Known(
        _pinned(authorities),
        [AgreementVersion(*row) for row in versions],
        {title: Awaited(*row) for title, *row in awaited},
        dict(epochs),
        {(title, epoch): (kid, cti) for title, epoch, kid, cti, _ in enrolled},
        newest,
        {(kid, cti) for _, _, kid, cti, _ in enrolled},
        set(revoked),
        dict(public_of),
    )


def seal_authority(
    kid: bytes, issuer: str, public: bytes, expires_s: int | None, unpinned_s: int | None = None
) -> bytes:
    """The MAC (32 octets) that an authority is pinned or unpinned with; AuditError where the audit key does not open.

    Times are Unix seconds.
    """
    unpinned = [] if unpinned_s is None else [unpinned_s]
    return chain.seal("authority", [kid, issuer, public, expires_s, *unpinned])


def _pinned(rows: Collection[Sequence[Any]]) -> dict[bytes, PinnedAuthority]:
    """Return the authorities that an act has pinned, by kid; rows that were inserted otherwise are left out.

    The last act in the audit chain counts, too: a row from before its authority was unpinned has a good MAC.
    """
    found = {}
    for kid, number, issuer, public, expires_s, unpinned_s, mac, last_act in rows:
        if not hmac.compare_digest(mac, seal_authority(kid, issuer, public, expires_s, unpinned_s)):
            logger.error("authority %r was pinned by nobody, or its row was changed: it vouches for no key", kid)
        elif unpinned_s is None and last_act == approvals.UNPIN_AUTHORITY:
            logger.error("authority %r was unpinned, and its older row put back: it vouches for no key", kid)
        elif unpinned_s is None:
            found[kid] = PinnedAuthority(number, issuer, public, expires_s)
    return found


def awaited_titles(titles: Collection[bytes]) -> set[bytes]:
    """Return the titles whose meters may enrol. One query."""
    rows = fetch_rows(
        "SELECT system_title FROM keyvault_awaitedenrolment WHERE system_title = ANY(%s::bytea[])", octets_array(titles)
    )
    return {row[0] for row in rows}


def key_ids(kids: Collection[bytes]) -> dict[bytes, int]:
    """Return the ids of existing keys by kid. One query."""
    rows = fetch_rows(
        """SELECT n.title, n.epoch, k.id FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
           JOIN keyvault_devicekey k ON k.system_title = n.title AND k.epoch = n.epoch""",
        octets_array(kid[:8] for kid in kids),
        int_array(int.from_bytes(kid[8:], "big") for kid in kids),
    )
    return {title + epoch.to_bytes(2, "big"): key_id for title, epoch, key_id in rows}
