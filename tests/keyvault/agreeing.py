"""Agreement keys and meters with key pairs for tests."""

from collections.abc import Collection

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import transaction

from keyvault.device_keys.provisioning import NewKey, provision_agreed
from keyvault.master_key import Purpose
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import AgreementKey


def agreement_key(private: X25519PrivateKey, name: str = "hes-1", version: int = 1) -> AgreementKey:
    """A version of an agreement key with a known private key."""
    with transaction.atomic():
        master = keys_for_wrapping()
        wrapped = master.wrap(private.private_bytes_raw(), Purpose.AGREEMENT_KEY, name.encode(), version)
        return AgreementKey.objects.create(
            name=name,
            version=version,
            public=private.public_key().public_bytes_raw(),
            wrapped=wrapped,
            master_key_version=master.active_version,
        )


def pairs(titles: Collection[bytes]) -> dict[bytes, X25519PrivateKey]:
    """A new private key for each meter."""
    return {title: X25519PrivateKey.generate() for title in titles}


def provision(privates: dict[bytes, X25519PrivateKey], key: AgreementKey) -> None:
    """Give meters their transfer key and the key of epoch 1, both agreed on."""
    publics = {title: private.public_key().public_bytes_raw() for title, private in privates.items()}
    provision_agreed(
        [NewKey(title, epoch, agreement_key=key.pk) for title in privates for epoch in (0, 1)],
        publics,
    )
