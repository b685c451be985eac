"""What is held against a certificate before anything costs a private key: each check with its reason. Pure.

The signature and the frame's tag come after these.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

from keyvault.enrolment.certificates import Certificate, kid_text


class EnrolmentRefusal(StrEnum):
    """Why a meter was not enrolled."""

    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    ALREADY_ENROLLED = "already_enrolled"


class PinnedAuthority(NamedTuple):
    """An authority that is pinned: its row, issuer, Ed25519 public key (32 octets), and its end in Unix seconds."""

    id: int
    issuer: str
    public: bytes
    expires_s: float | None


class Standing(NamedTuple):
    """What is known of a certificate and its title: its authority, and what became of its number and its like.

    ``newest_s`` is the iat of the newest certificate that enrolled the title; ``audiences`` are the names of the
    head-end's agreement keys; ``public_of`` says whose public key (system title; empty: the head-end's) it is already.
    """

    authority: PinnedAuthority | None
    is_revoked: bool
    is_used: bool
    newest_s: int | None
    audiences: Collection[str]
    public_of: bytes | None


_Refusal = tuple[EnrolmentRefusal, str]


def check(
    certificate: Certificate, system_title: bytes, came_s: int, skew_s: int, standing: Standing
) -> _Refusal | None:
    """The first check that a certificate fails which a frame of ``system_title`` brought at Unix seconds ``came_s``.

    Its authority, its dates, its number, its title, its audience, its public key; None where all hold.
    """
    authority = standing.authority
    if authority is None:
        return EnrolmentRefusal.CERTIFICATE_INVALID, f"no authority {kid_text(certificate.signed.kid)} is pinned"
    if certificate.issuer != authority.issuer:
        return EnrolmentRefusal.CERTIFICATE_INVALID, "its iss is not the name of the authority that it is signed by"
    return (
        _check_dates(certificate, came_s, skew_s, authority)
        or _check_number(certificate, standing)
        or _check_holder(certificate, system_title, standing)
    )


def _check_dates(certificate: Certificate, came_s: int, skew_s: int, authority: PinnedAuthority) -> _Refusal | None:
    if certificate.expires_s <= came_s:
        return EnrolmentRefusal.CERTIFICATE_EXPIRED, "its exp had passed when the frame was received"
    if authority.expires_s is not None and authority.expires_s <= came_s:
        return EnrolmentRefusal.CERTIFICATE_EXPIRED, "its authority had expired when the frame was received"
    if max(certificate.issued_s, certificate.not_before_s) > came_s + skew_s:
        return EnrolmentRefusal.CERTIFICATE_INVALID, "it begins after the frame was received"
    return None


def _check_number(certificate: Certificate, standing: Standing) -> _Refusal | None:
    cti = certificate.cti.hex()
    if standing.is_revoked:
        return EnrolmentRefusal.CERTIFICATE_REVOKED, f"its authority revoked it (cti {cti})"
    if standing.is_used:
        return EnrolmentRefusal.ALREADY_ENROLLED, f"it enrolled a meter before (cti {cti})"
    return None


def _check_holder(certificate: Certificate, system_title: bytes, standing: Standing) -> _Refusal | None:
    if certificate.system_title != system_title:
        other = certificate.system_title.hex()
        return EnrolmentRefusal.CERTIFICATE_INVALID, f"it is of {other}, and the frame of {system_title.hex()}"
    if certificate.audience not in standing.audiences:
        return (
            EnrolmentRefusal.CERTIFICATE_INVALID,
            f"its aud {certificate.audience[:60]!r} is no agreement key of ours",
        )
    if standing.newest_s is not None and certificate.issued_s < standing.newest_s:
        return EnrolmentRefusal.CERTIFICATE_REVOKED, "a newer certificate (iat) of the meter was seen"
    if standing.public_of is not None:
        other = standing.public_of.hex() or "the head-end"
        whose = "this meter had before" if standing.public_of == system_title else f"{other} has"
        return EnrolmentRefusal.CERTIFICATE_INVALID, f"its public key is one that {whose}: a meter makes a new pair"
    return None
