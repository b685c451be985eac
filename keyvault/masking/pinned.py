"""Mask authorities as the head-end's owner sees them: pinned, withdrawn, and asked under the head-end's own key.

All acts are audited. An authority's private keys are never here, and the head-end cannot unmask without it.
"""

import hmac
import logging
import secrets
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction

from keyvault import approvals, journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.errors import ProvisioningError
from keyvault.enrolment.certificates import CertificateError, check_authority_key
from keyvault.masking.masks import Cell
from keyvault.masking.messages import MetersRequest, SumRequest, seal_request
from keyvault.master_key import Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import AuditRecord, SigningSecret
from keyvault.models.masking import MaskAuthority

logger = logging.getLogger(__name__)

WITHDRAW = "mask_authority.withdraw"
REQUESTS = "mask requests"  # owner of the secret that requests are signed with
_FACT = "mask authority"  # what a row's MAC is over
_NAME_MAX, _URL_MAX = 60, 200


class MaskAuthorityError(ProvisioningError):
    """A mask authority that cannot be pinned, withdrawn or asked; the message says why."""


class PinnedMaskAuthority(NamedTuple):
    """An authority whose row was made by an act: ``public`` is its Ed25519 public key (32 octets)."""

    id: int
    name: str
    url: str
    mask_group: str
    public: bytes


class MaskAuthorityToPin(NamedTuple):
    """What is pinned: a name, the address, the group of meters that were made with it, and its Ed25519 public key."""

    name: str
    url: str
    mask_group: str
    public: bytes


def approval_subject(authority: MaskAuthorityToPin) -> dict[str, Any]:
    """What a second person approves: exactly this key at this address. MaskAuthorityError where it is in no form."""
    for what, text, longest in (("name", authority.name, _NAME_MAX), ("group", authority.mask_group, _NAME_MAX)):
        if len(text) > longest or not text.isprintable() or (what == "name" and not text.strip()):
            raise MaskAuthorityError(
                f"the {what} of a mask authority is a text of up to {longest} printable characters"
            )
    _check_url(authority.url)
    try:
        check_authority_key(authority.public)
    except CertificateError as error:
        raise MaskAuthorityError(str(error)) from None
    return {**authority._asdict(), "public": authority.public.hex()}


def pin(authority: MaskAuthorityToPin, actor: Actor, now: datetime) -> MaskAuthority:
    """Let an authority tell sums of masks. MaskAuthorityError where its name or key stands already.

    Spends a second person's approval where one is required: ApprovalError.
    """
    subject = approval_subject(authority)
    with transaction.atomic():
        spent = approvals.use(approvals.PIN_MASK_AUTHORITY, subject, now)
        for field, what in (("name", "name"), ("public", "public key")):
            if other := MaskAuthority.objects.filter(**{field: getattr(authority, field)}).first():
                raise MaskAuthorityError(f"a mask authority {other} is pinned with this {what} already")
        chain.record(actor, approvals.PIN_MASK_AUTHORITY, {**subject, **spent})  # one at a time from here on
        mac = _mac(*authority)
        row = MaskAuthority.objects.create(**authority._asdict(), pinned_at=now, mac=mac)
        journal.append("mask_authority", [*authority, int(now.timestamp()), mac])
        _ensure_secret(now)
    return row


def withdraw(name: str, actor: Actor, now: datetime) -> None:
    """Ask an authority no more: its group has one less. MaskAuthorityError where none of that name is asked."""
    with transaction.atomic():
        chain.record(actor, WITHDRAW, {"name": name})
        row = MaskAuthority.objects.select_for_update().filter(name=name, withdrawn_at=None).first()
        if row is None:
            raise MaskAuthorityError(f"no mask authority {name!r} is pinned and asked")
        row.withdrawn_at, row.mac = now, _mac(row.name, row.url, row.mask_group, bytes(row.public), withdrawn=True)
        row.save(update_fields=["withdrawn_at", "mac"])
        journal.append("mask_authority_withdrawn", [name, int(now.timestamp()), row.mac])


def asked() -> list[PinnedMaskAuthority]:
    """The authorities that are asked, by name. Two queries.

    Rows that nobody's act made are left out, and logged; so are those whose withdrawal was undone in the database. One
    that was withdrawn by nobody's act is asked as before, and logged: without it, its group's totals would be wrong.
    """
    rows = list(MaskAuthority.objects.order_by("name"))
    ours = [PinnedMaskAuthority(row.pk, row.name, row.url, row.mask_group, bytes(row.public)) for row in rows]
    acts = AuditRecord.objects.filter(act=WITHDRAW, subject__name__in=[one.name for one in ours])
    withdrawn = set(acts.values_list("subject__name", flat=True))
    macs = chain.seal_all(_FACT, [list(one[1:]) for one in ours])
    found = []
    for row, one, mac in zip(rows, ours, macs, strict=True):
        is_as_pinned = hmac.compare_digest(bytes(row.mac), mac)
        if row.withdrawn_at is not None and (one.name in withdrawn or not is_as_pinned):
            continue
        if not is_as_pinned:
            logger.error("mask authority %r was pinned by nobody, or its row was changed: it is not asked", row.name)
        elif one.name in withdrawn:
            logger.error("mask authority %r was withdrawn, and its older row put back: it is not asked", row.name)
        else:
            if row.withdrawn_at is not None:
                logger.error("mask authority %r was withdrawn by nobody: it is asked as before", row.name)
            found.append(one)
    return found


class Requester:
    """The head-end as authorities see it: it signs requests. It cannot be printed or pickled."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def __reduce__(self) -> str:
        raise TypeError("the key of requests is never pickled")

    def ask_sum(self, authority: bytes, cell: Cell, titles: tuple[bytes, ...], at_s: int) -> bytes:
        """A request (octets) for the sum of the masks of a cell of meters; ``authority`` is its Ed25519 public key."""
        return seal_request(self._private, SumRequest(self.public, authority, at_s, cell, titles))

    def ask_meters(self, authority: bytes, titles: tuple[bytes, ...], at_s: int) -> bytes:
        """A request (octets) which of some meters an authority has taken."""
        return seal_request(self._private, MetersRequest(self.public, authority, at_s, titles))


def requester(now: datetime) -> Requester:
    """The head-end's own key of requests, made where it has none. MaskAuthorityError where it does not open."""
    row = SigningSecret.objects.filter(owner=REQUESTS).order_by("pk").first()
    if row is None:
        with transaction.atomic():
            row = _ensure_secret(now)
    try:
        seed = master_key.current().unwrap(bytes(row.wrapped), Purpose.SIGNING_SECRET, REQUESTS.encode())
    except UnwrapError as error:
        raise MaskAuthorityError(f"the key of requests to mask authorities does not open: {error}") from None
    return Requester(Ed25519PrivateKey.from_private_bytes(seed))


def _ensure_secret(now: datetime) -> SigningSecret:
    """The row of the key of requests; the older one counts should two processes make one at once.

    The key journal keeps it: authorities pinned its public key, and would answer no other after a restore.
    """
    master = keys_for_wrapping()
    standing = SigningSecret.objects.select_for_update().filter(owner=REQUESTS).order_by("pk").first()
    if standing is not None:
        return standing
    wrapped = master.wrap(secrets.token_bytes(32), Purpose.SIGNING_SECRET, REQUESTS.encode())
    made = SigningSecret.objects.create(
        owner=REQUESTS, wrapped=wrapped, master_key_version=master.active_version, created_at=now
    )
    journal.append("mask_requests_key", [REQUESTS, wrapped, master.active_version, int(now.timestamp())])
    return made


def _mac(name: str, url: str, mask_group: str, public: bytes, *, withdrawn: bool = False) -> bytes:
    return chain.seal(_FACT, [name, url, mask_group, public, *([WITHDRAW] if withdrawn else [])])


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or len(url) > _URL_MAX:
        raise MaskAuthorityError(f"{url[:80]!r} is no address such as https://masks.example.org")
    if parts.query or parts.fragment or parts.username or parts.path not in ("", "/"):
        raise MaskAuthorityError("the address of a mask authority has neither path, query nor password")
