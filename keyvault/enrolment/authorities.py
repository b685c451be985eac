"""Authorities as their users see them: pinned, their revocations taken, meters let to enrol. All acts are audited.

An authority's private key is never here: it signs elsewhere (``keyvault.enrolment.authority_file`` for small ones).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from ami_headend.core.sql import execute, int_array, octets_array
from keyvault import approvals, journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.enrolment import lookups
from keyvault.enrolment.certificates import CertificateError, check_authority_key, kid_text, parse_revocation, verify
from keyvault.models import Authority, AwaitedEnrolment, DeviceKey, Enrolment, KeyState, RevokedCertificate
from keyvault.schemes.table import SCHEMES, algorithm_for, check_for_commands

KID_MAX_OCTETS = 64
ISSUER_MAX = 100


class AuthorityError(ProvisioningError):
    """An authority that cannot be pinned, found or believed; the message says why."""


class PublicAuthority(NamedTuple):
    """What is pinned: the kid and iss of its certificates, its Ed25519 public key (32 octets), and its end, if any."""

    kid: bytes
    issuer: str
    public: bytes
    expires_at: datetime | None = None


class Revoked(NamedTuple):
    """What a revocation was of: the certificate's number, and the keys of the meter that it enrolled, if any."""

    cti: bytes
    enrolment: Enrolment | None
    key_ids: list[int]


def pin(authority: PublicAuthority, actor: Actor, now: datetime) -> Authority:
    """Let an authority vouch for the keys of meters. AuthorityError if its kid or key exists already.

    One that was unpinned is pinned again under its old kid with its old key alone. Spends a second person's approval
    where one is required: ApprovalError.
    """
    subject = approval_subject(authority)
    with transaction.atomic():
        spent = approvals.use(approvals.PIN_AUTHORITY, subject, now)
        if other := Authority.objects.filter(public=authority.public).exclude(kid=authority.kid).first():
            raise AuthorityError(f"an authority {other} is pinned with this public key already")
        chain.record(actor, approvals.PIN_AUTHORITY, {**subject, **spent})  # one at a time from here on
        standing = Authority.objects.select_for_update().filter(kid=authority.kid).first()
        if standing is not None and standing.mac:  # a row from before authorities had one is pinned by this act
            if standing.unpinned_at is None:
                raise AuthorityError(f"an authority {standing} is pinned under this kid already")
            if bytes(standing.public) != authority.public:
                raise AuthorityError(f"this kid was of an authority {standing} with another key: take another kid")
        return _write(authority, now, None)


def unpin(kid: bytes, actor: Actor, now: datetime) -> Authority:
    """Take an authority's word no more: its certificates enrol no meter from now on; what they enrolled stands.

    AuthorityError where none is pinned under this kid. Spends a second person's approval where one is required:
    ApprovalError.
    """
    with transaction.atomic():
        row = Authority.objects.select_for_update().get(pk=pinned(kid).pk)
        subject = unpin_subject(row)
        spent = approvals.use(approvals.UNPIN_AUTHORITY, subject, now)
        chain.record(actor, approvals.UNPIN_AUTHORITY, {**subject, **spent})
        if row.unpinned_at is not None:
            raise AuthorityError(f"authority {kid_text(kid)} was unpinned meanwhile")
        authority = PublicAuthority(bytes(row.kid), row.issuer, bytes(row.public), row.expires_at)
        return _write(authority, row.pinned_at, now)


def pinned(kid: bytes) -> Authority:
    """The authority that is pinned under a kid; AuthorityError where none is."""
    row = Authority.objects.filter(kid=kid, unpinned_at=None).first()
    if row is None:
        raise AuthorityError(f"no authority {kid_text(kid)} is pinned")
    return row


def unpin_subject(authority: Authority) -> dict[str, Any]:
    """What a second person approves: that exactly this authority is unpinned."""
    return {"kid": bytes(authority.kid).hex(), "issuer": authority.issuer, "public": bytes(authority.public).hex()}


def _write(authority: PublicAuthority, pinned_at: datetime, unpinned_at: datetime | None) -> Authority:
    """Write an authority's row with its MAC, and what the journal is to know of it."""
    expires_s = None if authority.expires_at is None else int(authority.expires_at.timestamp())
    unpinned_s = None if unpinned_at is None else int(unpinned_at.timestamp())
    mac = lookups.seal_authority(*authority[:3], expires_s, unpinned_s)
    row, _ = Authority.objects.update_or_create(
        kid=authority.kid,
        defaults={
            "issuer": authority.issuer,
            "public": authority.public,
            "expires_at": authority.expires_at,
            "pinned_at": pinned_at,
            "unpinned_at": unpinned_at,
            "mac": mac,
        },
    )
    journal.append("authority", [*authority[:3], int(pinned_at.timestamp()), expires_s, mac, unpinned_s])
    return row


def approval_subject(authority: PublicAuthority) -> dict[str, Any]:
    """What a second person approves: exactly this key under this name. AuthorityError where it is in no form."""
    if not 1 <= len(authority.kid) <= KID_MAX_OCTETS:
        raise AuthorityError(f"the kid of an authority has 1 to {KID_MAX_OCTETS} octets")
    if not authority.issuer.strip() or len(authority.issuer) > ISSUER_MAX or not authority.issuer.isprintable():
        raise AuthorityError(f"the issuer (iss) is a text of up to {ISSUER_MAX} printable characters")
    try:
        check_authority_key(authority.public)
    except CertificateError as error:
        raise AuthorityError(str(error)) from None
    until = None if authority.expires_at is None else authority.expires_at.isoformat()
    return {
        "kid": authority.kid.hex(),
        "issuer": authority.issuer,
        "public": authority.public.hex(),
        "expires_at": until,
    }


def listed() -> QuerySet[Authority]:
    """The authorities by name, pinned ones first, with how many meters each enrolled, and how many it revoked."""
    return Authority.objects.annotate(
        enrolments=_count(Enrolment.objects.all()), revocations=_count(RevokedCertificate.objects.all())
    ).order_by(F("unpinned_at").asc(nulls_first=True), "issuer", "pk")


def _count(rows: QuerySet[Any]) -> Coalesce:
    """How many of these rows an authority has; not by a join, which would multiply two such counts."""
    of_one = rows.filter(authority=OuterRef("pk")).order_by().values("authority")
    return Coalesce(Subquery(of_one.annotate(number=Count("pk")).values("number")), 0)


def revoke(octets: bytes, actor: Actor, now: datetime) -> Revoked:
    """Take an authority's revocation of a certificate: it enrols no meter from now on; what it enrolled stands.

    AuthorityError where it is none, or of no pinned authority. The same again changes nothing.
    """
    try:
        revocation = parse_revocation(octets)
        with transaction.atomic():
            row = Authority.objects.select_for_update().filter(kid=revocation.signed.kid).first()
            if row is None:
                raise AuthorityError(f"no authority {kid_text(revocation.signed.kid)} is pinned")
            verify(revocation.signed, bytes(row.public))
            at = datetime.fromtimestamp(revocation.at_s, UTC)
            fields = {"revocation": octets, "revoked_at": at, "received_at": now}
            _, made = RevokedCertificate.objects.get_or_create(cti=revocation.cti, authority=row, defaults=fields)
            if made:
                body = [revocation.cti, bytes(row.kid), octets, revocation.at_s, int(now.timestamp())]
                journal.append("revoked", body)
                subject = {"cti": revocation.cti.hex(), "authority": row.issuer}
                chain.record(actor, "authority.revoke", subject)
            return _revoked(revocation.cti, row)
    except CertificateError as error:
        raise AuthorityError(str(error)) from None


def _revoked(cti: bytes, authority: Authority) -> Revoked:
    enrolment = Enrolment.objects.filter(cti=cti, authority=authority).first()
    if enrolment is None:
        return Revoked(cti, None, [])
    return Revoked(cti, enrolment, list(_keys_of(enrolment).order_by("pk").values_list("pk", flat=True)))


def _keys_of(enrolment: Enrolment) -> QuerySet[DeviceKey]:
    """The keys that follow from what a certificate vouched for: its epoch, and those up to the next enrolment.

    The transfer key is the newest enrolment's.
    """
    later = Enrolment.objects.filter(system_title=enrolment.system_title, epoch__gt=enrolment.epoch)
    following = later.order_by("epoch").values_list("epoch", flat=True).first()
    keys = DeviceKey.objects.filter(system_title=enrolment.system_title).exclude(state=KeyState.COMPROMISED)
    if following is not None:
        return keys.filter(epoch__gte=enrolment.epoch, epoch__lt=following)
    return keys.filter(Q(epoch__gte=enrolment.epoch) | Q(epoch=TRANSFER_EPOCH))


def allow(
    system_titles: Sequence[bytes],
    actor: Actor,
    now: datetime,
    scheme: str | None = None,
    algorithm: int | None = None,
) -> Counter[str]:
    """Let meters (system title, 8 octets) enrol by certificate, once each; how many by scheme of their epoch to come.

    ``scheme`` and ``algorithm`` are those of the epoch to come, None for those that the meter has, or the usual ones.
    One that may enrol already does so as this call says. AuthorityError for a scheme that no meter can be given with
    such keys.
    """
    titles = sorted(set(system_titles))
    with transaction.atomic():
        newest = {
            bytes(title): (of, alg)
            for title, of, alg in DeviceKey.objects.filter(system_title__in=titles, epoch__gt=0)
            .order_by("system_title", "-epoch")
            .distinct("system_title")
            .values_list("system_title", "scheme", "algorithm")
        }
        kinds = [_kind(newest.get(title), scheme, algorithm) for title in titles]
        rows = [[title, *kind, int(now.timestamp())] for title, kind in zip(titles, kinds, strict=True)]
        execute(
            """INSERT INTO keyvault_awaitedenrolment (system_title, scheme, algorithm, allowed_at)
               SELECT title, scheme, algorithm, %s
               FROM unnest(%s::bytea[], %s::text[], %s::int[]) AS n(title, scheme, algorithm)
               ON CONFLICT (system_title) DO UPDATE
               SET scheme = excluded.scheme, algorithm = excluded.algorithm, allowed_at = excluded.allowed_at""",
            now,
            octets_array(titles),
            "{" + ",".join(f'"{name}"' for name, _ in kinds) + "}",
            int_array(alg for _, alg in kinds),
        )
        if rows:
            journal.append("awaited", rows)
        named = [title.hex() for title in titles[: chain.NAMED_MAX]]
        chain.record(actor, "authority.allow", {"devices": named, "count": len(titles)})
    return Counter(name for name, _ in kinds)


def _kind(newest: tuple[str, int] | None, scheme: str | None, algorithm: int | None) -> tuple[str, int]:
    """The scheme and algorithm of the epoch to come."""
    of, alg = newest or (None, None)
    chosen = scheme or of or "ccm"
    check_for_commands(chosen)
    if "agreed" not in SCHEMES[chosen].sources:
        raise AuthorityError(f"scheme {chosen} takes no agreed keys")
    return chosen, algorithm_for(chosen, algorithm if algorithm is not None else alg if chosen == of else None)


def awaited() -> QuerySet[AwaitedEnrolment]:
    """The meters that may enrol, by title."""
    return AwaitedEnrolment.objects.order_by("system_title")
