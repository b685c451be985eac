"""The head-end under test beside the model of it: its doors, called as web, workers and commands call them."""

import shutil
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings
from django.utils import timezone

from ami_headend.core.sql import fetch_rows
from concentrators import tasks
from concentrators.commands import downlink, queue
from concentrators.fleet import assignments
from concentrators.ingest import (
    clock_corrections,
    dispatch,
    length_corrections,
    reception,
    register_corrections,
    reverification,
    reverification_queue,
    uplink_state,
    verification,
)
from concentrators.ingest.clock_corrections import ClockRequest
from concentrators.models import Concentrator, Reverification
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.cose.algorithms import AES_CCM_16_64_128, AES_CCM_16_64_256
from keyvault.cose.kdf import derived_device_key
from keyvault.cose.structures import encode_sequence, make_kid, parse_frame
from keyvault.device_keys import agreement_keys, epochs, key_export, provisioning, shipment_file, shipments
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
from tests.stateful.faults import Fault, Faults, Worker
from tests.stateful.field import FLEET_KEY, HonestMeter, Made
from tests.stateful.model import EXTRA, INTERVAL_S, WAITING, Assigned, Key, Posted, Sent, Truth

ACTOR = Actor("stateful", "tests")
WRONG_MINUTES = 60
TRANSPORT_KEY = TransportKey(sha256(b"transport").digest())
USUAL, STRONG = AES_CCM_16_64_128, AES_CCM_16_64_256
Effect = Callable[[Truth], None]
Change = tuple[str | None, str | None]


class Letter(NamedTuple):
    """A command as a concentrator fetched it."""

    concentrator: int
    number: int
    title: bytes
    octets: bytes


class Clock:
    """The time of the simulation, for everything that asks Django for it."""

    def __init__(self) -> None:
        self.now = datetime.now().astimezone()


clock = Clock()


class HeadEnd:
    """One head-end with its own database and master key, two workers, and the truth about it."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        real = datetime.now().astimezone()
        self.start = datetime.fromtimestamp(int(real.timestamp()) // INTERVAL_S * INTERVAL_S, real.tzinfo)
        clock.now = self.start - timedelta(days=280)
        self._next_interval_s = int(clock.now.timestamp())
        database.empty()
        settings.MASTER_KEY_FILE.unlink(missing_ok=True)
        shutil.rmtree(settings.KEY_JOURNAL_DIR, ignore_errors=True)
        master_key.init(settings.MASTER_KEY_FILE)
        self.agreement_key = agreement_keys.init("hes-1", ACTOR)
        self.workers = [Worker(), Worker()]
        self.truth = Truth(
            settings.COUNTER_GAP_RUNS,
            settings.SESSIONS_KEPT,
            timedelta(seconds=settings.RETRANSMISSION_WINDOW_S),
            timedelta(days=settings.KEY_GRACE_DAYS),
        )
        self.concentrators = [Concentrator.objects.create(name=name).pk for name in ("north", "south")]
        self.letters: list[Letter] = []
        self.air: list[Sent] = []  # every honest frame that may still come to the head-end
        self.meters: list[HonestMeter] = []
        self.unshipped: list[HonestMeter] = []
        self._transfer_keys: dict[bytes, bytes] = {}  # those that shipments replaced others with, by fingerprint
        self._sealed: dict[tuple[bytes, int], bytes] = {}
        self._numbers: dict[int, bytes] = {}

    # --- meters ---------------------------------------------------------------------------------

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
        meter = HonestMeter(
            row, Made(made[0], made[1], alg, transfer_alg, scheme, head_end, private), int(clock.now.timestamp())
        )
        self.meters.append(meter)
        self.truth.in_service[title] = True
        self.assign(meter, concentrator)
        if keys == "unshipped":
            self.unshipped.append(meter)
        self.learn({(None, "active")})
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
        self.air += [meter.read(at, wh + number, extra=extra) for number, meter in enumerate(meters)]
        self._next_interval_s = int(clock.now.timestamp()) // INTERVAL_S * INTERVAL_S

    def meter_of(self, title: bytes) -> HonestMeter:
        return next(meter for meter in self.meters if meter.title == title)

    def assign(self, meter: HonestMeter, concentrator: int) -> None:
        """From now on a meter belongs to a concentrator."""
        assignments.assign([(meter.row.pk, concentrator)], clock.now)
        self.truth.assigned.setdefault(meter.title, []).append(Assigned(int(clock.now.timestamp()), concentrator))

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
        name = database.key_names().get((meter.title, TRANSFER_EPOCH))
        if name is not None and self.was_shipped(name):
            meter.visit(self._transfer_keys[name], int(clock.now.timestamp()))

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

    # --- uplinks --------------------------------------------------------------------------------

    def post(self, place: int, frames: Sequence[Sent], behind: timedelta = timedelta(0)) -> int:
        """Frames arrive; the id of their uplink, as yet unverified, or of the same one that came before.

        ``behind``: by so much is the clock of the web server.
        """
        received_at = clock.now - behind
        receipt = reception.receive(
            self.concentrators[place], encode_sequence([sent.octets for sent in frames]), received_at, tasks.enqueue
        )
        self.truth.uplinks.setdefault(receipt.uplink_id, Posted(received_at, list(frames)))
        return receipt.uplink_id

    def correct_clock(self, uplink_id: int, behind: timedelta, worker: Worker) -> None:
        """Somebody says by how much the clock was behind when an uplink came, and what was ahead is judged again."""
        at = self.truth.uplinks[uplink_id].received_at
        wish = ClockRequest(at, at + timedelta(microseconds=1), int(behind.total_seconds()), "NTP was off", uplink_id)
        clock_corrections.correct(wish, ACTOR, clock.now)
        corrected = dict(fetch_rows("SELECT id, corrected_at FROM concentrators_uplink"))
        for pk, uplink in self.truth.uplinks.items():
            uplink.corrected_at = corrected[pk]
        self.by_itself(worker)

    def by_itself(self, worker: Worker) -> None:
        """What the schedule does with frames that wait: those judged again for which something has come."""
        causes = list(Reverification.objects.order_by("pk").values_list("cause", flat=True))
        causes.sort(key=reverification_queue.CAUSES.index)
        with worker.at_work():
            while reverification_queue.work(worker.own):
                pass
        corrected = {pk for pk, uplink in self.truth.uplinks.items() if uplink.corrected_at is not None}
        self.settle(
            *_in_batches(
                [
                    partial(_judge_again, uplink_id, kinds=reverification_queue._KINDS[cause])
                    for cause in causes
                    for uplink_id in sorted(self.truth.uplinks if cause != "clock" else corrected)
                ]
            )
        )

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

    def arrive(self, place: int, frames: Sequence[Sent], worker: int, fault: Fault | None = None) -> None:
        """An uplink comes in and is verified at once, unless the very same came before."""
        uplink_id = self.post(place, frames)
        if uplink_id in self.unverified():
            self.verify(uplink_id, self.workers[worker], fault)

    def unverified(self) -> list[int]:
        return sorted(uplink_id for uplink_id, uplink in self.truth.uplinks.items() if uplink.verdicts is None)

    def verify(self, uplink_id: int, worker: Worker, fault: Fault | None = None, beside: Sequence[Effect] = ()) -> None:
        """A worker verifies an uplink; ``beside``: what another one may have done meanwhile."""
        with worker.at_work():
            self.faults.run(lambda: verification.verify(uplink_id, worker.own), fault)
        done = self._verified()
        mine = self._judging([uplink_id] if uplink_id in done else [])
        if fault is None or fault.between is not None:
            assert mine, "verification came to nothing"
        mine = [one for effect in mine for one in (effect, Truth.give_up_sessions)]
        self.settle([*mine, *beside], [*beside, *mine], mine)

    def verify_in_turn(self, uplink_id: int, worker: Worker) -> None:
        """A worker verifies an uplink, and what else its concentrator has waiting, oldest first."""
        with worker.at_work():
            dispatch.verify_backlog(uplink_id, worker.own)
        done = self._verified()
        assert uplink_id in done
        self.settle(*_in_batches(self._judging(done)))

    def sweep(self, worker: Worker) -> None:
        """What was left over is found again, and verified."""
        for uplink_id in uplink_state.claim_overdue(clock.now):
            self.verify(uplink_id, worker)

    def judging_if_done(self, uplink_id: int) -> Effect:
        """The effect of an uplink that another worker verified, if it did."""

        def judge(truth: Truth) -> None:
            if uplink_id in self._verified() and truth.uplinks[uplink_id].verdicts is None:
                truth.judge_uplink(uplink_id, clock.now)
                truth.give_up_sessions()

        return judge

    def verify_again(self, worker: Worker, fault: Fault | None = None) -> None:
        """The frames that waited for keys are judged again; a worker that dies has got through some uplinks."""
        waiting = reverification.waiting_uplinks()
        with worker.at_work():
            self.faults.run(lambda: reverification.verify_all_again(waiting, worker=worker.own), fault)
        effects = [partial(_judge_again, uplink_id) for uplink_id in waiting]
        counts = range(len(effects), -1, -1) if fault else [len(effects)]
        self.settle(*(batches for count in counts for batches in _in_batches(effects[:count])))

    def _verified(self) -> list[int]:
        """What the database says is verified, and the model does not know of yet."""
        waiting = self.unverified()
        seen = database.verified(waiting)
        return [uplink_id for uplink_id in waiting if uplink_id in seen]

    def _judging(self, uplink_ids: Iterable[int]) -> list[Effect]:
        return [partial(_judge, uplink_id) for uplink_id in uplink_ids]

    # --- downlink -------------------------------------------------------------------------------

    def fetch(self, concentrator: int, fault: Fault | None = None) -> None:
        """A concentrator fetches commands. Where the web process dies, nothing comes out."""
        clock.now += timedelta(seconds=1)
        offers = self.faults.run(lambda: downlink.offer(concentrator, 100, clock.now), fault) or []
        for offer in offers:
            self.letters.append(Letter(concentrator, *offer))
            frame = parse_frame(offer.octets)
            assert self._sealed.setdefault((frame.kid, frame.counter), offer.octets) == offer.octets, "a nonce again"
            assert self._numbers.setdefault(offer.number, offer.system_title) == offer.system_title, "a number again"
            newest = self.truth.newest(offer.system_title)
            if newest is not None and newest[1].state == "pending" and frame.kid == make_kid(offer.system_title, 0):
                newest[1].given_away = True
        self.settle()

    def deliver(
        self, letter: Letter, *, refuse: bool = False, lose_answer: bool = False, power_for: int | None = None
    ) -> None:
        """A command reaches its meter, now or again; the meter's power may last for some writes only."""
        now_s = int(clock.now.timestamp())
        said = self.meter_of(letter.title).obey(letter.octets, now_s, refuse=refuse, power_for=power_for)
        if not lose_answer:
            self.air += said

    def give_new_key(self, meter: HonestMeter) -> None:
        """As operators do; the meter has it when this returns, and the head-end does not know that yet."""
        meter.row.refresh_from_db()
        queue.enqueue_keys([meter.row], "test", clock.now)
        self.learn({(None, "pending")})
        for concentrator in self.concentrators:
            self.fetch(concentrator)
        self.deliver(next(letter for letter in reversed(self.letters) if letter.title == meter.title))

    # --- model and database ---------------------------------------------------------------------

    def learn(self, allowed: set[Change]) -> None:
        """Key states that have changed as they may: the model takes them over."""
        seen = database.key_states()
        for kid in {*seen, *self.truth.keys}:
            key, after = self.truth.keys.get(kid), seen.get(kid)
            before = None if key is None else key.state
            if before == after:
                continue
            assert (before, after) in allowed, f"key {kid} went from {before} to {after}"
            if after == "retired":
                assert key is not None
                assert self.truth.is_due(key, clock.now), "retired within its grace time"
            if after is None:
                assert key is not None
                assert not key.given_away, "a key that a meter may have is gone"
                del self.truth.keys[kid]
            elif key is None:
                self.truth.keys[kid] = Key(after)
            else:
                key.state = after
        self.settle()

    def settle(self, *alternatives: Sequence[Effect]) -> None:
        """The database must say what the model says after one of some sequences of effects; with none, as it is."""
        seen = database.observed()
        first: tuple[database.Observed, database.Observed] | None = None
        for effects in alternatives or ((),):
            truth = self.truth.copy()
            for effect in effects:
                effect(truth)
            wanted = database.expected(truth, seen)
            if wanted == seen:
                self.truth = truth
                return
            first = first or (wanted, seen)
        assert first is not None
        for name in database.Observed._fields:
            want, have = (getattr(one, name) for one in first)
            wrong = {one: (have.get(one), want.get(one)) for one in {*have, *want} if have.get(one) != want.get(one)}
            assert not wrong, f"{name}: what is, and what ought to be: {wrong}"

    def pass_time(self, length: timedelta) -> None:
        clock.now += length
        self._next_interval_s = max(self._next_interval_s, int(clock.now.timestamp()) // INTERVAL_S * INTERVAL_S)


def _shipment(line: ShipmentLine) -> Shipment:
    return Shipment(ShipmentHeader("S-1", TRANSPORT_KEY.fingerprint, 1), [line], [], bytes(32))


def _exported(title: bytes) -> list[bytes]:
    """The keys that were made here for a device, as somebody takes them to it."""
    path = settings.MASTER_KEY_FILE.with_name("shipment")
    path.unlink(missing_ok=True)
    key_export.export([title], TRANSPORT_KEY, path, "S-2", ACTOR)
    line = shipment_file.read(path).lines[0]
    return [TRANSPORT_KEY.unwrap(wrapped) for wrapped in (line.key, line.transfer_key) if wrapped is not None]


def _in_batches(effects: Sequence[Effect]) -> list[list[Effect]]:
    """Uplinks were judged each alone, or all together."""
    alone = [one for effect in effects for one in (effect, Truth.give_up_sessions)]
    return [alone, [*effects, Truth.give_up_sessions]]


def _judge(uplink_id: int, truth: Truth) -> None:
    truth.judge_uplink(uplink_id, clock.now)


def _judge_again(uplink_id: int, truth: Truth, kinds: Container[str] = WAITING) -> None:
    truth.judge_again(uplink_id, clock.now, kinds)


def real_now() -> datetime:
    """The time by the clock on the wall, for what asks the operating system."""
    return datetime.now(timezone.get_current_timezone())
