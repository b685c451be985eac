"""Fingerprints: every provisioned key has the one of its octets."""

import hashlib

import pytest

from keyvault import master_key
from keyvault.cose.kdf import derived_device_key
from keyvault.device_keys import provisioning
from keyvault.device_keys.fingerprints import FINGERPRINT_OCTETS, fingerprint
from keyvault.device_keys.key_rows import purpose_of
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey
from tests.damage import damaged

TITLE = bytes.fromhex("0024befffe804ff1")


def test_a_fingerprint_is_the_start_of_a_hash_with_its_own_prefix() -> None:
    key = bytes(range(32))
    assert fingerprint(key) == hashlib.sha256(b"ami-headend key fingerprint" + key).digest()[:8]
    assert len(fingerprint(key)) == FINGERPRINT_OCTETS


@pytest.mark.django_db
def test_stored_keys_get_their_fingerprint() -> None:
    given, other = bytes(range(32)), bytes.fromhex("0024befffe804ff2")
    provisioning.provision_devices([TITLE])
    provisioning.provision_stored([NewKey(other, 1, given)])
    rows = DeviceKey.objects.all()
    assert rows.count() == 3
    for row in rows:
        title = bytes(row.system_title)
        key = master_key.current().unwrap(bytes(row.wrapped or b""), purpose_of(row.epoch), title, row.epoch)
        assert bytes(row.fingerprint or b"") == fingerprint(key)
    assert bytes(rows.get(system_title=other).fingerprint or b"") == fingerprint(given)


@pytest.mark.django_db
def test_derived_keys_get_their_fingerprint() -> None:
    fleet_key = provisioning.create_fleet_key("north", bytes(range(32)))
    provisioning.provision_devices([TITLE], fleet_key=fleet_key)
    for row in DeviceKey.objects.filter(system_title=TITLE):
        assert bytes(row.fingerprint or b"") == fingerprint(derived_device_key(bytes(range(32)), TITLE, row.epoch))


@pytest.mark.django_db
def test_a_fleet_key_that_does_not_open_provisions_nothing() -> None:
    fleet_key = provisioning.create_fleet_key("north")
    fleet_key.wrapped = damaged(fleet_key.wrapped)
    with pytest.raises(provisioning.ProvisioningError, match="fleet key north does not open"):
        provisioning.provision_devices([TITLE], fleet_key=fleet_key)
    assert not DeviceKey.objects.exists()
