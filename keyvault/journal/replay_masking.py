"""The records of the key journal that tell of mask authorities."""

from datetime import UTC, datetime

from keyvault.models.masking import MaskAuthority


def pinned(name: str, url: str, mask_group: str, public: bytes, pinned_s: int, mac: bytes) -> None:
    """A mask authority that was pinned; what another record said of its name or key was of an act not committed."""
    MaskAuthority.objects.filter(public=public).exclude(name=name).delete()
    pinned_at = datetime.fromtimestamp(pinned_s, UTC)
    fields = {"url": url, "mask_group": mask_group, "public": public, "mac": mac, "pinned_at": pinned_at}
    MaskAuthority.objects.update_or_create(name=name, defaults=fields)


def withdrawn(name: str, withdrawn_s: int) -> None:
    """A mask authority that is asked no more."""
    MaskAuthority.objects.filter(name=name).update(withdrawn_at=datetime.fromtimestamp(withdrawn_s, UTC))
