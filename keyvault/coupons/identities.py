"""Identities of meters, registered by an operator from certificates of pinned authorities. All acts are audited."""

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.enrolment import lookups
from keyvault.enrolment.certificate_checks import PinnedAuthority
from keyvault.enrolment.certificates import (
    CURVE_ED25519,
    IDENTITY_AUDIENCE,
    Certificate,
    CertificateError,
    check_authority_key,
    kid_text,
    parse_certificate,
    verify,
)
from keyvault.models import MeterIdentity


class IdentityError(ProvisioningError):
    """A certificate that registers no identity; the message says why."""


class Registered(NamedTuple):
    """How many identities were registered, how many stood already, and of whom (system titles, 8 octets)."""

    new: int
    unchanged: int
    system_titles: list[bytes]


def register(certificates: Sequence[bytes], actor: Actor, now: datetime, *, dry_run: bool = False) -> Registered:
    """Register the identities that certificates vouch for, all or none; one that stands already changes nothing.

    With ``dry_run`` nothing is written. IdentityError names the first certificate that does not hold, by its title
    where it has one. A fixed number of queries.
    """
    parsed = {octets: _parse(octets, f"certificate {place}") for place, octets in enumerate(certificates, 1)}
    try:
        with transaction.atomic():
            rows = _register(parsed, actor, now, dry_run=dry_run)
    except IntegrityError:
        raise IdentityError("another registration of the same certificates or keys came between: try again") from None
    return Registered(len(rows), len(parsed) - len(rows), [one.system_title for one in parsed.values()])


def _register(parsed: dict[bytes, Certificate], actor: Actor, now: datetime, *, dry_run: bool) -> list[MeterIdentity]:
    known = lookups.look_up([one.system_title for one in parsed.values()], list(parsed.values()))
    standing = {bytes(row.certificate): row for row in _standing(list(parsed.values()))}
    new = {octets: one for octets, one in parsed.items() if octets not in standing}
    others = list(standing.values())
    rows: list[MeterIdentity] = []
    for octets, one in new.items():
        authority = known.authorities.get(one.signed.kid)
        is_revoked = authority is not None and (authority.id, one.cti) in known.revoked
        why = _check(one, authority, now, is_revoked=is_revoked)
        if why is None and authority is not None:
            why = _check_others(one, authority.id, [*others, *rows])
        if why is not None or authority is None:
            raise IdentityError(f"{one.system_title.hex()}: {why}")
        rows.append(_row(one, octets, authority, now))
    if rows and not dry_run:
        kids = [one.signed.kid for one in new.values()]
        for row, mac in zip(rows, seal_all([_sealed(*pair) for pair in zip(rows, kids, strict=True)]), strict=True):
            row.mac = mac
        MeterIdentity.objects.bulk_create(rows)
        _note(rows, new, actor, now)
    return rows


def _parse(octets: bytes, what: str) -> Certificate:
    try:
        return parse_certificate(octets, CURVE_ED25519)
    except CertificateError as error:
        raise IdentityError(f"{what}: {error}") from None


def _standing(parsed: Sequence[Certificate]) -> list[MeterIdentity]:
    """The identities that stand of the same titles, numbers or keys."""
    rows = MeterIdentity.objects
    found = rows.filter(system_title__in=[one.system_title for one in parsed])
    found |= rows.filter(cti__in=[one.cti for one in parsed])
    found |= rows.filter(public__in=[one.public for one in parsed])
    return list(found)


def _check(one: Certificate, authority: PinnedAuthority | None, now: datetime, *, is_revoked: bool) -> str | None:
    """What is wrong with a certificate by itself; None where nothing is."""
    if authority is None:
        return f"no authority {kid_text(one.signed.kid)} is pinned (manage.py authority pin)"
    if one.issuer != authority.issuer:
        return "its iss is not the name of the authority that it is signed by"
    if one.audience != IDENTITY_AUDIENCE:
        return f"its aud is {one.audience[:60]!r}: certificates of identities have {IDENTITY_AUDIENCE!r}"
    now_s = now.timestamp()
    if min(one.expires_s, authority.expires_s or one.expires_s) <= now_s:
        return "its time, or its authority's, is over"
    if max(one.issued_s, one.not_before_s) > now_s + settings.CLOCK_SKEW_S:
        return "it begins in the future"
    if is_revoked:
        return "its authority revoked it"
    try:
        verify(one.signed, authority.public)
        check_authority_key(one.public)
    except CertificateError as error:
        return str(error)
    return None


def _check_others(one: Certificate, authority_id: int, others: Sequence[MeterIdentity]) -> str | None:
    for other in others:
        title = bytes(other.system_title)
        if (bytes(other.cti), other.authority_id) == (one.cti, authority_id):
            return f"its number (cti) is that of another certificate, of {title.hex()}"
        if bytes(other.public) == one.public:
            return f"its key is the identity of {title.hex()} already: a meter makes a new pair"
        if title == one.system_title and other.issued_at.timestamp() > one.issued_s:
            return "a newer certificate (iat) of the meter is registered"
    return None


def _row(one: Certificate, octets: bytes, authority: PinnedAuthority, now: datetime) -> MeterIdentity:
    return MeterIdentity(
        system_title=one.system_title,
        public=one.public,
        cti=one.cti,
        authority_id=authority.id,
        certificate=octets,
        issued_at=datetime.fromtimestamp(one.issued_s, UTC),
        expires_at=datetime.fromtimestamp(one.expires_s, UTC),
        registered_at=now,
    )


def _note(
    rows: Sequence[MeterIdentity],
    new: dict[bytes, Certificate],
    actor: Actor,
    now: datetime,
    act: str = "identity.register",
) -> None:
    titles = [bytes(row.system_title).hex() for row in rows]
    chain.record(actor, act, {"devices": titles[: chain.NAMED_MAX], "count": len(titles)})
    journal.append(
        "identities",
        [
            [
                bytes(row.system_title),
                bytes(row.public),
                bytes(row.cti),
                one.signed.kid,
                octets,
                one.issued_s,
                one.expires_s,
                int(now.timestamp()),
                bytes(row.mac),
            ]
            for row, (octets, one) in zip(rows, new.items(), strict=True)
        ],
    )


class Sealed(NamedTuple):
    """What the MAC of an identity is over: title, key, the kid of its authority, cti, certificate."""

    system_title: bytes
    public: bytes
    authority_kid: bytes
    cti: bytes
    certificate: bytes


def seal_all(identities: Sequence[Sequence[bytes]]) -> list[bytes]:
    """The MACs (32 octets) that identities are registered with, each as of ``Sealed``; AuditError. One query."""
    return chain.seal_all("meter identity", [list(one) for one in identities])


def _sealed(row: MeterIdentity, authority_kid: bytes) -> Sealed:
    fields = (bytes(octets) for octets in (row.cti, row.certificate))
    return Sealed(bytes(row.system_title), bytes(row.public), authority_kid, *fields)


def unconfirmed() -> list[MeterIdentity]:
    """Identities whose rows no act made: from before rows had a MAC, or written by others, by title. Two queries."""
    rows = list(MeterIdentity.objects.select_related("authority").order_by("system_title", "pk"))
    macs = seal_all([_sealed(row, bytes(row.authority.kid)) for row in rows])
    return [row for row, mac in zip(rows, macs, strict=True) if not hmac.compare_digest(bytes(row.mac), mac)]


def confirm(actor: Actor, now: datetime) -> Registered:
    """Give the identities that stood before rows had a MAC theirs, all or none; audited.

    Each certificate has to fit its row and to be signed by an authority that is pinned: IdentityError else, also for a
    row whose MAC is another's, since such a row was changed.
    """
    with transaction.atomic():
        rows = unconfirmed()
        certificates = {bytes(row.certificate): _parse(bytes(row.certificate), f"certificate of {row}") for row in rows}
        known = lookups.look_up([bytes(row.system_title) for row in rows], list(certificates.values()))
        for row in rows:
            one = certificates[bytes(row.certificate)]
            authority = known.authorities.get(one.signed.kid)
            if why := _why_not_confirmed(row, one, authority):
                raise IdentityError(f"{row}: {why}")
        macs = seal_all([_sealed(row, bytes(row.authority.kid)) for row in rows])
        for row, mac in zip(rows, macs, strict=True):
            row.mac = mac
        if rows:
            MeterIdentity.objects.bulk_update(rows, ["mac"], batch_size=1000)
            _note(rows, certificates, actor, now, "identity.confirm")
    titles = [bytes(row.system_title) for row in rows]
    return Registered(len(rows), MeterIdentity.objects.count() - len(rows), titles)


def _why_not_confirmed(row: MeterIdentity, one: Certificate, authority: PinnedAuthority | None) -> str | None:
    """What is wrong with a row that has no MAC; None where nothing is."""
    if row.mac:
        return "its row was changed after it was registered: look into the audit record, and who wrote to the database"
    if authority is None or authority.id != row.authority_id:
        return f"no authority {kid_text(one.signed.kid)} is pinned (manage.py authority pin)"
    if (one.system_title, one.public, one.cti) != (bytes(row.system_title), bytes(row.public), bytes(row.cti)):
        return "its certificate says another title, key or number than its row"
    if one.audience != IDENTITY_AUDIENCE or one.issuer != authority.issuer:
        return "its certificate is for something else, or of another authority"
    try:
        verify(one.signed, authority.public)
    except CertificateError as error:
        return str(error)
    return None


def listed() -> QuerySet[MeterIdentity]:
    """The registered identities, by title and the newest first."""
    return MeterIdentity.objects.select_related("authority").order_by("system_title", "-issued_at", "-pk")


def of_device(system_title: bytes) -> MeterIdentity | None:
    """The newest identity of a meter, if it has any."""
    return listed().filter(system_title=system_title).first()
