"""The records of the key journal that tell of mask authorities."""

from datetime import UTC, datetime
from typing import Any

from django.db.models import Q

from keyvault.models import SigningSecret
from keyvault.models.masking import MaskAuthority


def pinned(name: str, url: str, mask_group: str, public: bytes, pinned_s: int, mac: bytes) -> None:
    """A mask authority that was pinned; what another record said of its name or key was of an act not committed."""
    fields = {"name": name, "url": url, "mask_group": mask_group, "public": public, "mac": mac}
    pinned_at = datetime.fromtimestamp(pinned_s, UTC)
    standing = MaskAuthority.objects.filter(Q(name=name) | Q(public=public))
    if not standing.update(**fields, pinned_at=pinned_at):
        MaskAuthority.objects.create(**fields, pinned_at=pinned_at)


def withdrawn(name: str, withdrawn_s: int, mac: bytes | None = None) -> None:
    """A mask authority that is asked no more; records of earlier releases have no MAC of that."""
    fields: dict[str, Any] = {} if mac is None else {"mac": mac}
    MaskAuthority.objects.filter(name=name).update(withdrawn_at=datetime.fromtimestamp(withdrawn_s, UTC), **fields)


def requests_key(owner: str, wrapped: bytes, version: int, created_s: int) -> None:
    """The key that requests are signed with; made once, so that one that stands is the same, perhaps wrapped anew."""
    fields = {"wrapped": wrapped, "master_key_version": version, "created_at": datetime.fromtimestamp(created_s, UTC)}
    SigningSecret.objects.get_or_create(owner=owner, expires_at=None, defaults=fields)
