"""How enrolment by certificate stands: authorities, meters that may enrol, certificates that are about to expire."""

from datetime import datetime, timedelta
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows
from keyvault.enrolment import authorities

SOON = timedelta(days=90)  # a certificate's end is said this long before
# Whether a device may enrol.
MAY = "{title} IN (SELECT a.system_title FROM keyvault_awaitedenrolment a)"
_OF_NEWEST = """NOT EXISTS (SELECT 1 FROM keyvault_enrolment n
                            WHERE n.system_title = e.system_title AND n.epoch > e.epoch)"""


class AuthorityRow(NamedTuple):
    """An authority: its Ed25519 public key (32 octets), and the meters and certificates that it vouched for.

    ``unpinned_at`` is None as long as it is pinned.
    """

    issuer: str
    kid: bytes
    public: bytes
    pinned_at: datetime
    expires_at: datetime | None
    unpinned_at: datetime | None
    enrolled: int
    revoked: int


class AwaitedRow(NamedTuple):
    """A meter that may enrol, and the scheme of that epoch; ``epoch`` is the newest that it has, 0 without any key."""

    system_title: bytes
    scheme: str
    allowed_at: datetime
    epoch: int


class CertificateRow(NamedTuple):
    """The certificate (number of 8 octets) that a meter enrolled with last."""

    system_title: bytes
    cti: bytes
    issuer: str
    enrolled_at: datetime
    expires_at: datetime


class EnrolmentStanding(NamedTuple):
    """Counts, with the meters that wait the longest and the certificates that expire first."""

    authorities: list[AuthorityRow]
    awaited: int
    longest: list[AwaitedRow]
    enrolled: int
    expiring: int
    first: list[CertificateRow]


class OfDevice(NamedTuple):
    """How a device stands: since when it may enrol, and the certificate that it enrolled with last; None: not so."""

    may_since: datetime | None
    issuer: str | None
    enrolled_at: datetime | None
    expires_at: datetime | None


def standing(now: datetime, limit: int) -> EnrolmentStanding:
    """Everything that was enrolled and may be, up to ``limit`` rows of each; looks at every certificate."""
    ((awaited, enrolled),) = fetch_rows(
        """SELECT (SELECT count(*) FROM keyvault_awaitedenrolment),
                  (SELECT count(DISTINCT system_title) FROM keyvault_enrolment)"""
    )
    expiring = fetch_rows(
        f"""SELECT e.system_title, e.cti, a.issuer, e.enrolled_at, e.expires_at, count(*) OVER ()
            FROM keyvault_enrolment e JOIN keyvault_authority a ON a.id = e.authority_id
            WHERE e.expires_at >= %s AND e.expires_at < %s AND {_OF_NEWEST} ORDER BY e.expires_at, e.id LIMIT %s""",
        now,
        now + SOON,
        limit,
    )
    pinned = [
        AuthorityRow(
            row.issuer,
            bytes(row.kid),
            bytes(row.public),
            row.pinned_at,
            row.expires_at,
            row.unpinned_at,
            row.enrolments,  # type: ignore[attr-defined]  # annotated
            row.revocations,  # type: ignore[attr-defined]
        )
        for row in authorities.listed()
    ]
    first = [CertificateRow(*row[:-1]) for row in expiring]
    return EnrolmentStanding(pinned, awaited, _longest(limit), enrolled, expiring[0][-1] if expiring else 0, first)


def of_device(system_title: bytes) -> OfDevice:
    """How one device stands; one query."""
    rows = fetch_rows(
        f"""SELECT (SELECT allowed_at FROM keyvault_awaitedenrolment WHERE system_title = t.title),
                   e.issuer, e.enrolled_at, e.expires_at
            FROM (VALUES (%s::bytea)) AS t(title) LEFT JOIN LATERAL (
                SELECT a.issuer, e.enrolled_at, e.expires_at
                FROM keyvault_enrolment e JOIN keyvault_authority a ON a.id = e.authority_id
                WHERE e.system_title = t.title AND {_OF_NEWEST}
            ) AS e ON true""",
        system_title,
    )
    return OfDevice(*rows[0])


def _longest(limit: int) -> list[AwaitedRow]:
    rows = fetch_rows(
        """SELECT w.system_title, w.scheme, w.allowed_at,
                  coalesce((SELECT max(k.epoch) FROM keyvault_devicekey k WHERE k.system_title = w.system_title), 0)
           FROM (SELECT * FROM keyvault_awaitedenrolment ORDER BY allowed_at, id LIMIT %s) AS w
           ORDER BY w.allowed_at, w.id""",
        limit,
    )
    return [AwaitedRow._make(row) for row in rows]
