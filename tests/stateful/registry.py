"""The registry of the head-end under test: meters commissioned, assigned, suspended, given keys by shipments."""

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings

from concentrators.fleet import assignments
from concentrators.ingest import length_corrections, register_corrections
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256
from keyvault.cose.kdf import derived_device_key
from keyvault.device_keys import epochs, key_export, provisioning, shipment_file, shipments
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.provisioning import NewKey
from keyvault.device_keys.shipment_file import Shipment, ShipmentHeader, ShipmentLine
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.models import DeviceKey
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.table import algorithm_for
from meters.models import Meter, Register
from meters.registry import lifecycle
from tests.stateful import database
from tests.stateful.entities import EXTRA, INTERVAL_S, Assigned
from tests.stateful.faults import Fault, Faults
from tests.stateful.field import FLEET_KEY, HonestMeter, Made
from tests.stateful.ground import ACTOR, Ground, clock

WRONG_MINUTES = 60
TRANSPORT_KEY = TransportKey(sha256(b"transport").digest())
USUAL, STRONG = AES_CCM_16_64_128, AES_CCM_16_64_256


class Registry(Ground):
    """What operators and manufacturers do with meters."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.unshipped: list[HonestMeter] = []
        self._transfer_keys: dict[bytes, bytes] = {}  # those that shipments replaced others with, by fingerprint

    def commission(self, number: int, concentrator: int, keys: str, scheme: str = "ccm") -> HonestMeter:
        """A new meter in the registry, and how it got its keys.

        "imported", "exported", "derived", "agreed", or "unshipped" yet; the first and the last are of alg 11.
        """
        title = (0x0024_BEFF_FE00_0001 + number).to_bytes(8, "big")
        row = Meter.objects.create(system_title=title, serial_number=f"meter {number}", commissioned_at=clock.now)
        made = [sha256(title + bytes([epoch])).digest() for epoch in (1, 0)]
        wished = STRONG if keys in ("imported", "unshipped") and scheme in ("ccm", "session") else None
        alg, transfer_alg = algorithm_for(scheme, wished), STRONG if keys == "unshipped" else USUAL
        private = b""
        match keys:
            case "imported":
                entry = NewKey(title, 1, made[0], alg, scheme)
                entries = [entry, NewKey(title, 0, made[1], transfer_alg)]
                provisioning.provision_stored(provisioning.with_agreement_keys(entries))
            case "exported":
                provisioning.provision_devices([title], scheme=scheme)
                made = _exported(title)
            case "derived":
                fleet_key = provisioning.create_fleet_key("fleet", FLEET_KEY)
                provisioning.provision_devices([title], fleet_key=fleet_key, scheme=scheme)
                made = [derived_device_key(FLEET_KEY, title, epoch) for epoch in (1, 0)]
            case "agreed":
                private = sha256(title + b"private").digest()
                made = self._agree(title, private, alg, scheme)
        head_end = bytes(self.agreement_key.public)
        meter = self.take_in(row, Made(made[0], made[1], alg, transfer_alg, scheme, head_end, private), concentrator)
        if keys == "unshipped":
            self.unshipped.append(meter)
        self.learn({(None, "active")})
        return meter

    def take_in(self, row: Meter, made: Made, concentrator: int) -> HonestMeter:
        """A meter goes into service, at a concentrator."""
        meter = HonestMeter(row, made, clock.now_s, self.holders)
        self.meters.append(meter)
        self.truth.in_service[meter.title] = True
        self.assign(meter, concentrator)
        return meter

    def _agree(self, title: bytes, private: bytes, alg: int, scheme: str) -> list[bytes]:
        """Let head-end and meter agree on keys of epochs 1 and 0; as the meter has them."""
        own = X25519PrivateKey.from_private_bytes(private)
        public, version = own.public_key().public_bytes_raw(), self.agreement_key
        entries = [NewKey(title, 1, None, alg, scheme, version.pk), NewKey(title, 0, agreement_key=version.pk)]
        provisioning.provision_agreed(entries, {title: public})
        z = agree(own, bytes(version.public))
        return [agreed_device_key(z, title, epoch, public, bytes(version.public)) for epoch in (1, 0)]

    def read(self, meters: Iterable[HonestMeter], wh: int, *, extra: bool = False) -> None:
        """An interval goes by, and meters measure it."""
        clock.now = max(clock.now, datetime.fromtimestamp(self._next_interval_s + INTERVAL_S, clock.now.tzinfo))
        at = self._next_interval_s
        for number, meter in enumerate(meters):
            self.air += meter.read(at, wh + number, clock.now_s, extra=extra)
        self._next_interval_s = clock.now_s // INTERVAL_S * INTERVAL_S

    def assign(self, meter: HonestMeter, concentrator: int) -> None:
        """From now on a meter belongs to a concentrator."""
        assignments.assign([(meter.row.pk, concentrator)], clock.now)
        self.truth.assigned.setdefault(meter.title, []).append(Assigned(clock.now_s, concentrator))

    def toggle_service(self, meter: HonestMeter) -> None:
        """A meter is suspended, or taken back into service."""
        meter.row.refresh_from_db()
        in_service = self.truth.in_service
        lifecycle.suspend(meter.row) if in_service[meter.title] else lifecycle.resume(meter.row)
        in_service[meter.title] = not in_service[meter.title]

    def ship(self, meter: HonestMeter, fault: Fault | None = None) -> None:
        """The manufacturer's shipment with a meter's keys comes in."""
        key, transfer_key = map(TRANSPORT_KEY.wrap, (meter.made_key, meter.transfer_key))
        shipment = _shipment(ShipmentLine(2, meter.title, 1, STRONG, key, transfer_key, STRONG, meter.scheme))
        self.faults.run(lambda: shipments.import_(shipment, TRANSPORT_KEY, ACTOR), fault)
        self.learn({(None, "active")})

    def replace_transfer_key(self, meter: HonestMeter, fault: Fault | None = None) -> None:
        """A shipment comes in with another transfer key of a meter, which has to be visited yet."""
        key = sha256(meter.title + f"transfer key {len(self._transfer_keys)}".encode()).digest()
        self._transfer_keys[fingerprint(key)] = key
        shipment = _shipment(
            ShipmentLine(2, meter.title, None, None, None, TRANSPORT_KEY.wrap(key), meter.transfer_alg)
        )
        self.faults.run(lambda: shipments.import_(shipment, TRANSPORT_KEY, ACTOR, replace_transfer_keys=True), fault)
        kid = meter.title, TRANSFER_EPOCH
        if database.key_states()[kid] == "active":
            self.truth.keys[kid].state = "active"
        self.settle()

    def visit(self, meter: HonestMeter) -> None:
        """Somebody brings a meter the transfer key that a shipment put in, if one did."""
        name, _ = database.key_kinds().get((meter.title, TRANSFER_EPOCH), (b"", ""))
        if self.was_shipped(name):
            meter.visit(self._transfer_keys[name], clock.now_s)

    def was_shipped(self, name: bytes) -> bool:
        """Whether a shipment, one that was lost with its worker even, had a transfer key of that fingerprint."""
        return name in self._transfer_keys

    def compromise_transfer_key(self, meter: HonestMeter) -> None:
        """Somebody else knows it; and what is on its way under it."""
        row = DeviceKey.objects.get(system_title=meter.title, epoch=TRANSFER_EPOCH)
        epochs.compromise([row.pk], ACTOR)
        for (title, epoch), key in self.truth.keys.items():
            if title == meter.title and (epoch == TRANSFER_EPOCH or key.state == "pending"):
                key.state = "compromised"

    def add_register(self, unit: str = "Wh") -> None:
        """An administrator adds the register that new firmware has, maybe with a wrong unit; meters say it in Wh."""
        _, added = Register.objects.get_or_create(
            obis_code=EXTRA, defaults={"kind": "cumulative", "unit": unit, "name": "extra"}
        )
        self.truth.registers.add(EXTRA)
        if added and unit != "Wh":
            self.truth.wrong_registers.add(EXTRA)

    def register_wrongly(self, meter: HonestMeter) -> None:
        """Somebody enters a wrong interval length for a meter, which goes on as before."""
        Meter.objects.filter(pk=meter.row.pk).update(interval_minutes=WRONG_MINUTES)
        self.truth.lengths[meter.title] = WRONG_MINUTES

    def correct_length(self, meter: HonestMeter) -> None:
        """An operator corrects the length of a meter, if it is wrong, with all that was taken for it."""
        if self.truth.lengths.pop(meter.title, None) is not None:
            wish = length_corrections.LengthRequest(INTERVAL_S // 60, None, None, "visited")
            length_corrections.correct(meter.row, wish, ACTOR, clock.now)

    def correct_register(self) -> None:
        """An administrator corrects the unit of that register, if it is wrong."""
        if EXTRA in self.truth.wrong_registers:
            wish = register_corrections.RegisterRequest("the maker says so", unit="Wh")
            register_corrections.correct(register_corrections.find(EXTRA), wish, ACTOR)
            self.truth.wrong_registers.clear()


def _shipment(line: ShipmentLine) -> Shipment:
    return Shipment(ShipmentHeader("S-1", TRANSPORT_KEY.fingerprint, 1), [line], [], bytes(32))


def _exported(title: bytes) -> list[bytes]:
    """The keys that were made here for a device, as somebody takes them to it."""
    path = settings.MASTER_KEY_FILE.with_name("shipment")
    path.unlink(missing_ok=True)
    key_export.export([title], TRANSPORT_KEY, path, "S-2", ACTOR)
    line = shipment_file.read(path).lines[0]
    return [TRANSPORT_KEY.unwrap(wrapped) for wrapped in (line.key, line.transfer_key) if wrapped is not None]
