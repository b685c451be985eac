"""The checks of an enrolment before any private key is used, each with the reason of its refusal. Pure.

First the meter: whether it may enrol, and as which epoch. Then its certificate. The signature and the frame's tag are
verified after these.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from keyvault.enrolment.certificates import Certificate, kid_text
from keyvault.refusals import EnrolmentRefusal, Refusal


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


Why = tuple[Refusal | EnrolmentRefusal, str]  # the reason, and what was found


def not_awaited(system_title: bytes, newest: int | None) -> Why:
    """Return why a meter may not enrol that no operator expects; ``newest`` is its newest epoch, None without a key."""
    if newest is None:
        return Refusal.UNKNOWN_DEVICE, f"no meter of system title {system_title.hex()} awaits enrolment"
    detail = "the meter has keys: an operator must let it enrol again (manage.py authority allow)"
    return EnrolmentRefusal.ALREADY_ENROLLED, detail


def check_epoch(newest: int | None, epoch: int) -> Why | None:
    """Check that a frame enrols its meter as the epoch after its ``newest`` one; None: it has no key yet."""
    following = (newest or 0) + 1
    if epoch != following:
        return Refusal.UNKNOWN_EPOCH, f"it enrols as epoch {following}, and the frame names {epoch}"
    return None


def check_only_one(certificate: Certificate, others: Iterable[Certificate]) -> Why | None:
    """Check that no other meter of the same batch enrols with the number or the public key of a certificate."""
    for other in others:
        if other.number == certificate.number:
            detail = f"it enrols another meter of this uplink (cti {certificate.cti.hex()})"
            return EnrolmentRefusal.ALREADY_ENROLLED, detail
        if other.public == certificate.public:
            return EnrolmentRefusal.CERTIFICATE_INVALID, "its public key is that of another meter of this uplink"
    return None


def check(certificate: Certificate, system_title: bytes, came_s: int, skew_s: int, standing: Standing) -> Why | None:
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


def _check_dates(certificate: Certificate, came_s: int, skew_s: int, authority: PinnedAuthority) -> Why | None:
    if certificate.expires_s <= came_s:
        return EnrolmentRefusal.CERTIFICATE_EXPIRED, "its exp had passed when the frame was received"
    if authority.expires_s is not None and authority.expires_s <= came_s:
        return EnrolmentRefusal.CERTIFICATE_EXPIRED, "its authority had expired when the frame was received"
    if max(certificate.issued_s, certificate.not_before_s) > came_s + skew_s:
        return EnrolmentRefusal.CERTIFICATE_INVALID, "it begins after the frame was received"
    return None


def _check_number(certificate: Certificate, standing: Standing) -> Why | None:
    cti = certificate.cti.hex()
    if standing.is_revoked:
        return EnrolmentRefusal.CERTIFICATE_REVOKED, f"its authority revoked it (cti {cti})"
    if standing.is_used:
        return EnrolmentRefusal.ALREADY_ENROLLED, f"it enrolled a meter before (cti {cti})"
    return None


def _check_holder(certificate: Certificate, system_title: bytes, standing: Standing) -> Why | None:
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
