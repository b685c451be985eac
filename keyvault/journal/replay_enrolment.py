"""Replays the records of the key journal about authorities, certificates, identities and meters that may enrol."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ami_headend.core.sql import execute, octets_array
from keyvault.models import Authority, AwaitedEnrolment, Enrolment, MeterIdentity, RevokedCertificate


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def authority(
    kid: bytes,
    issuer: str,
    public: bytes,
    pinned_s: int,
    expires_s: int | None,
    mac: bytes = b"",
    unpinned_s: int | None = None,
) -> None:
    """An authority that was pinned or unpinned; the last record of its kid counts."""
    fields: dict[str, Any] = {"issuer": issuer, "public": public, "pinned_at": _at(pinned_s), "mac": mac}
    fields["expires_at"] = None if expires_s is None else _at(expires_s)
    fields["unpinned_at"] = None if unpinned_s is None else _at(unpinned_s)
    Authority.objects.update_or_create(kid=kid, defaults=fields)


def awaited(rows: Sequence[Sequence[Any]]) -> None:
    """Meters that may enrol, except those that enrolled in a later second (records have whole seconds)."""
    for title, scheme, algorithm, allowed_s in rows:
        if not Enrolment.objects.filter(system_title=title, enrolled_at__gte=_at(allowed_s + 1)).exists():
            fields = {"scheme": scheme, "algorithm": algorithm, "allowed_at": _at(allowed_s)}
            AwaitedEnrolment.objects.update_or_create(system_title=title, defaults=fields)


def enrolled(rows: Sequence[Sequence[Any]]) -> None:
    """Certificates that enrolled meters; the keys come in records of their own."""
    numbers = dict(Authority.objects.values_list("kid", "pk"))
    by_kid = {bytes(kid): number for kid, number in numbers.items()}
    for cti, title, epoch, kid, octets, issued_s, expires_s, enrolled_s in rows:
        fields = {
            "cti": cti,
            "authority_id": by_kid[kid],
            "certificate": octets,
            "issued_at": _at(issued_s),
            "expires_at": _at(expires_s),
            "enrolled_at": _at(enrolled_s),
        }
        of_certificate = Enrolment.objects.filter(cti=cti, authority_id=by_kid[kid])
        of_certificate.exclude(system_title=title, epoch=epoch).delete()  # of an act not committed
        Enrolment.objects.update_or_create(system_title=title, epoch=epoch, defaults=fields)
    execute(
        "DELETE FROM keyvault_awaitedenrolment WHERE system_title = ANY(%s::bytea[])",
        octets_array(row[1] for row in rows),
    )


def revoked(cti: bytes, kid: bytes, octets: bytes, revoked_s: int, received_s: int) -> None:
    """A certificate that its authority revoked."""
    fields = {"revocation": octets, "revoked_at": _at(revoked_s), "received_at": _at(received_s)}
    RevokedCertificate.objects.get_or_create(cti=cti, authority=Authority.objects.get(kid=kid), defaults=fields)


def identities(rows: Sequence[Sequence[Any]]) -> None:
    """Identities that were registered or confirmed; other rows with the same number or key were not committed.

    Records of releases before rows had a MAC lack it: such rows have to be confirmed.
    """
    by_kid = {bytes(kid): number for kid, number in Authority.objects.values_list("kid", "pk")}
    for title, public, cti, kid, octets, issued_s, expires_s, registered_s, *mac in rows:
        fields = {
            "mac": mac[0] if mac else b"",
            "system_title": title,
            "public": public,
            "certificate": octets,
            "issued_at": _at(issued_s),
            "expires_at": _at(expires_s),
            "registered_at": _at(registered_s),
        }
        numbered = {"cti": cti, "authority_id": by_kid[kid]}
        MeterIdentity.objects.filter(public=public).exclude(**numbered).delete()
        MeterIdentity.objects.update_or_create(**numbered, defaults=fields)
