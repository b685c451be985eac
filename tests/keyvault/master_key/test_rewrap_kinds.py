"""The master key's rotation with secrets of every kind that schemes brought: nothing is left behind, all goes on."""

import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django import Settings

from ami_headend.core.sql import fetch_rows
from concentrators.fleet import concentrator_keys
from concentrators.models import Concentrator
from keyvault import master_key
from keyvault.device_keys import agreement_keys, epochs, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.master_key import census, rewrap, versions
from keyvault.models import DeviceKey
from keyvault.schemes.agreed import agree, agreed_device_key
from tests.concentrators.dlms_devices import dlms_meter, profile
from tests.concentrators.fleet import Device, judged
from tests.concentrators.scheme_devices import MacDevice, SealedDevice, SessionDevice, meter_at
from tests.dlms_frames import SYNTHETIC
from tests.factories import ConcentratorFactory
from tests.keyvault import agreeing
from tests.stateful.headend import ACTOR

pytestmark = pytest.mark.django_db
NOTIFICATION = bytes.fromhex(SYNTHETIC["db_sc30"]["plain"])
TITLE = bytes.fromhex("545354ae6af2a9a4")
HOLDER = bytes.fromhex("0024befffe00c001")


def test_every_column_of_wrapped_octets_is_counted() -> None:
    """Else a rotation leaves it behind, and the version that it needs is destroyed."""
    columns = fetch_rows(
        """SELECT table_name::text, column_name::text FROM information_schema.columns
           WHERE table_schema = 'public' AND column_name LIKE '%%wrapped%%' AND data_type = 'bytea'"""
    )
    assert dict(columns) == dict.fromkeys(census.TABLES, "wrapped")
    assert len(columns) == len(census.TABLES)


def test_after_a_rotation_and_the_old_versions_end_all_schemes_go_on(settings: Settings, tmp_path: Path) -> None:
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    settings.MASTER_KEY_DESTROY_AFTER_DAYS = 0
    master_key.provider().init()
    concentrator: Concentrator = ConcentratorFactory.create()
    old = agreement_keys.init("hes-1", ACTOR)
    meters = [meter_at(concentrator) for _ in range(5)]
    pushing = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    profile(NOTIFICATION, TITLE)
    names = [bytes(meter.system_title) for meter in meters]
    keys = [secrets.token_bytes(32) for _ in meters]
    pair = agreeing.pairs(names[4:])
    agreeing.provision(pair, old)
    new = agreement_keys.rotate("hes-1", ACTOR, timezone.now())
    lines = [(10, "ccm", None), (10, "session", None), (4, "mac", None), (-65537, "sealed", new.pk)]
    provisioning.provision_stored(
        NewKey(title, 1, key, *line) for title, key, line in zip(names[:4], keys, lines, strict=False)
    )
    concentrator_keys.give(ACTOR, concentrator, HOLDER)
    concentrator_keys.make_keys(ACTOR, concentrator, 10)
    counted = {secret.table: 0 for batch in census.all_secrets() for secret in batch}
    assert counted.keys() >= {census.DEVICE_KEYS, census.AGREEMENT_KEYS, census.AUDIT_KEYS}
    before = {row.pk: bytes(row.wrapped or b"") for row in DeviceKey.objects.all()}

    rotation = rewrap.begin(3, ACTOR)
    while rewrap.rewrap_batch(rotation.pk):
        pass
    versions.destroy(1, ACTOR, timezone.now() + timedelta(seconds=1))

    assert [count.version for count in census.census()] == [2]
    assert census.verify().faults == []
    assert all(bytes(row.wrapped or b"") != before[row.pk] for row in DeviceKey.objects.exclude(wrapped=None))
    public = pair[names[4]].public_key().public_bytes_raw()
    z = agree(pair[names[4]], bytes(old.public))
    agreed = agreed_device_key(z, names[4], 1, public, bytes(old.public))
    devices = [
        Device(meters[0], keys[0]),
        SessionDevice(meters[1], keys[1]),
        MacDevice(meters[2], keys[2], alg=4),
        SealedDevice(meters[3], keys[3], head_end=bytes(new.public)),
        Device(meters[4], agreed),
    ]
    assert judged(concentrator, [device.frame(0) for device in devices]) == {"accepted": 5}
    assert judged(concentrator, [pushing.frame(NOTIFICATION, 0)]) == {"accepted": 1}
    assert epochs.begin([names[4]]) == {names[4]: 2}  # from the public key, which was wrapped anew
    assert epochs.begin([HOLDER]) == {HOLDER: 2}
