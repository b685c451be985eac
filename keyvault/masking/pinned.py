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
from keyvault.models import SigningSecret
from keyvault.models.masking import MaskAuthority

logger = logging.getLogger(__name__)

_OWNER = "mask requests"  # of the secret that requests are signed with
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
        chain.record(actor, "mask_authority.withdraw", {"name": name})
        if not MaskAuthority.objects.filter(name=name, withdrawn_at=None).update(withdrawn_at=now):
            raise MaskAuthorityError(f"no mask authority {name!r} is pinned and asked")
        journal.append("mask_authority_withdrawn", [name, int(now.timestamp())])


def asked() -> list[PinnedMaskAuthority]:
    """The authorities that are asked, by name; one whose row nobody's act made is left out, and logged. One query."""
    found = []
    rows = MaskAuthority.objects.filter(withdrawn_at=None).order_by("name")
    for row in rows:
        one = PinnedMaskAuthority(row.pk, row.name, row.url, row.mask_group, bytes(row.public))
        if hmac.compare_digest(bytes(row.mac), _mac(*one[1:])):
            found.append(one)
        else:
            logger.error("mask authority %r was pinned by nobody, or its row was changed: it is not asked", row.name)
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
    row = SigningSecret.objects.filter(owner=_OWNER).order_by("pk").first()
    if row is None:
        with transaction.atomic():
            row = _ensure_secret(now)
    try:
        seed = master_key.current().unwrap(bytes(row.wrapped), Purpose.SIGNING_SECRET, _OWNER.encode())
    except UnwrapError as error:
        raise MaskAuthorityError(f"the key of requests to mask authorities does not open: {error}") from None
    return Requester(Ed25519PrivateKey.from_private_bytes(seed))


def _ensure_secret(now: datetime) -> SigningSecret:
    """The row of the key of requests; the older one counts should two processes make one at once."""
    master = keys_for_wrapping()
    standing = SigningSecret.objects.select_for_update().filter(owner=_OWNER).order_by("pk").first()
    return standing or SigningSecret.objects.create(
        owner=_OWNER,
        wrapped=master.wrap(secrets.token_bytes(32), Purpose.SIGNING_SECRET, _OWNER.encode()),
        master_key_version=master.active_version,
        created_at=now,
    )


def _mac(name: str, url: str, mask_group: str, public: bytes) -> bytes:
    return chain.seal("mask authority", [name, url, mask_group, public])


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
