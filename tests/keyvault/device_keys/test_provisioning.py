"""Putting keys into the vault: all or nothing, every mistake named, and no octets of a key to be seen."""

import base64
import secrets

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import Settings

from keyvault import master_key
from keyvault.cose.kdf import derived_device_key
from keyvault.device_keys import key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey, ProvisioningError
from keyvault.master_key import MasterKeyError, Purpose
from keyvault.models import DeviceKey, FleetKey, InvocationCounter, KeyState

pytestmark = pytest.mark.django_db

TITLES = [(0x0024_BEFF_FE10_0000 + n).to_bytes(8, "big") for n in range(5)]


def unwrapped(row: DeviceKey) -> bytes:
    purpose = Purpose.DEVICE_KEY if row.epoch else Purpose.TRANSFER_KEY
    return master_key.current().unwrap(bytes(row.wrapped or b""), purpose, bytes(row.system_title), row.epoch)


class TestStored:
    def test_given_keys_are_kept_wrapped_and_random_ones_are_made(self) -> None:
        key = secrets.token_bytes(32)
        provisioning.provision_stored([NewKey(TITLES[0], 1, key, 11), NewKey(TITLES[1], 1), NewKey(TITLES[2], 1)])
        rows = list(DeviceKey.objects.order_by("system_title"))
        assert [bytes(row.system_title) for row in rows] == TITLES[:3]
        assert [(row.epoch, row.algorithm, row.state, row.version) for row in rows] == [
            (1, 11, "active", 1),
            (1, 10, "active", 1),
            (1, 10, "active", 1),
        ]
        assert unwrapped(rows[0]) == key
        assert len({unwrapped(row) for row in rows}) == 3
        counters = InvocationCounter.objects.filter(key__in=rows)
        assert set(counters.values_list("highest", "floor", "key_version", "heard_at")) == {(-1, 0, 1, None)}
        assert counters.count() == 3

    def test_a_device_has_a_transfer_key_beside_its_first(self) -> None:
        provisioning.provision_devices(TITLES)
        rows = DeviceKey.objects.order_by("system_title", "epoch")
        assert [(bytes(row.system_title), row.epoch) for row in rows] == [(t, e) for t in TITLES for e in (0, 1)]
        assert len({unwrapped(row) for row in rows}) == 10

    def test_no_octets_of_a_key_in_the_database(self) -> None:
        key = secrets.token_bytes(32)
        fleet = provisioning.create_fleet_key("fleet", key)
        provisioning.provision_stored([NewKey(TITLES[0], 1, key)])
        provisioning.provision_devices(TITLES[1:], fleet_key=fleet)
        dump = []
        with connection.cursor() as cursor:
            for table in ("keyvault_devicekey", "keyvault_fleetkey", "keyvault_invocationcounter"):
                cursor.execute(f"SELECT t::text FROM {table} t")
                dump += [row[0] for row in cursor.fetchall()]
        text = "\n".join(dump)
        secret = [key, *(derived_device_key(key, title, 1) for title in TITLES)]
        assert not [octets for octets in secret if octets.hex() in text or base64.b64encode(octets).decode() in text]

    def test_an_entry_shows_no_key(self) -> None:
        key = secrets.token_bytes(32)
        shown = f"{NewKey(TITLES[0], 1, key)!r} {NewKey(TITLES[0], 1, key)}"
        assert TITLES[0].hex() in shown
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown


class TestMistakes:
    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (NewKey(b"short", 1), "5 octets instead of 8"),
            (NewKey(bytes(9), 1), "9 octets instead of 8"),
            (NewKey(TITLES[3], 1, bytes(16)), "16 octets instead of 32"),
            (NewKey(TITLES[3], 1, bytes(33)), "33 octets instead of 32"),
            (NewKey(TITLES[3], 1, b""), "0 octets instead of 32"),
            (NewKey(TITLES[3], -1), "epoch -1"),
            (NewKey(TITLES[3], 65_536), "epoch 65536"),
            (NewKey(TITLES[3], 1, None, 30), "algorithm 30"),
            (NewKey(TITLES[0], 1), "epoch 1 stands twice"),
            (NewKey(TITLES[4], 1), "epoch 1 has a key already"),
        ],
    )
    def test_one_mistake_leaves_all_as_it_was(self, entry: NewKey, message: str) -> None:
        provisioning.provision_stored([NewKey(TITLES[4], 1)])
        before = list(DeviceKey.objects.values_list("pk", "wrapped"))
        with pytest.raises(ProvisioningError, match=message):
            provisioning.provision_stored([NewKey(TITLES[0], 1), NewKey(TITLES[1], 1), entry])
        assert len(DeviceKey.objects.all()) == len(before) == 1

    def test_a_second_active_epoch_is_refused_by_the_database(self) -> None:
        provisioning.provision_stored([NewKey(TITLES[0], 1)])
        with pytest.raises(IntegrityError), transaction.atomic():
            provisioning.provision_stored([NewKey(TITLES[1], 1), NewKey(TITLES[0], 2)])
        assert DeviceKey.objects.count() == InvocationCounter.objects.count() == 1

    def test_devices_twice(self) -> None:
        provisioning.provision_devices(TITLES[:2])
        with pytest.raises(ProvisioningError, match=TITLES[1].hex()):
            provisioning.provision_devices(TITLES[1:])
        assert DeviceKey.objects.count() == 4

    def test_without_a_master_key(self, settings: Settings) -> None:
        settings.MASTER_KEY_FILE = "/nonexistent/master.keys"
        for act in (
            lambda: provisioning.provision_stored([NewKey(TITLES[0], 1)]),
            lambda: provisioning.provision_devices(TITLES),
            lambda: provisioning.create_fleet_key("fleet"),
        ):
            with pytest.raises(MasterKeyError, match="master_key init"):
                act()
        assert not DeviceKey.objects.exists()

    @pytest.mark.parametrize("length", [0, 16, 31, 33])
    def test_a_fleet_key_of_another_length(self, length: int) -> None:
        with pytest.raises(ProvisioningError, match=f"{length} octets instead of 32"):
            provisioning.create_fleet_key("fleet", bytes(length))
        assert not FleetKey.objects.exists()

    def test_a_fleet_key_of_a_name_that_is_taken(self) -> None:
        provisioning.create_fleet_key("fleet")
        with pytest.raises(ProvisioningError, match="exists already"):
            provisioning.create_fleet_key("fleet")


class TestDerived:
    def test_nothing_is_stored_per_device_but_the_name_of_its_fleet(self) -> None:
        fleet = provisioning.create_fleet_key("fleet")
        provisioning.provision_devices(TITLES, fleet_key=fleet)
        assert set(DeviceKey.objects.values_list("source", "wrapped", "master_key_version", "fleet_key", "epoch")) == {
            ("derived", None, None, fleet.pk, epoch) for epoch in (0, 1)
        }

    def test_a_fleet_key_is_bound_to_its_name(self) -> None:
        fleet = provisioning.create_fleet_key("fleet")
        with pytest.raises(master_key.UnwrapError):
            master_key.current().unwrap(bytes(fleet.wrapped), Purpose.FLEET_KEY, b"another")


class TestState:
    def test_a_change_moves_the_version_on_key_and_counter(self) -> None:
        provisioning.provision_stored([NewKey(title, 1) for title in TITLES])
        ids = list(DeviceKey.objects.order_by("system_title").values_list("pk", flat=True))
        assert key_rows.set_key_state(ids[:3], KeyState.RETIRING) == 3
        rows = DeviceKey.objects.order_by("system_title").values_list("state", "version", "counter__key_version")
        assert list(rows) == [("retiring", 2, 2)] * 3 + [("active", 1, 1)] * 2
        assert key_rows.set_key_state(ids, KeyState.RETIRING) == 2
        assert key_rows.set_key_state(ids, KeyState.RETIRING) == 0
        assert key_rows.set_key_state([], KeyState.RETIRED) == 0
        assert set(rows.all()) == {("retiring", 2, 2)}
