"""The head-end under test beside the model of it: its doors, called as web, workers and commands call them."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from django.conf import settings
from django.utils import timezone

from concentrators import assignments, downlink, reception, reverification, turns, uplinks, verification
from concentrators.models import Concentrator
from keyvault import masterkey, provisioning, shipments
from keyvault.audit import Actor
from keyvault.cose.structures import encode_sequence, make_kid, parse_frame
from keyvault.models import Algorithm
from keyvault.provisioning import NewKey
from keyvault.shipmentfile import Header, Shipment, ShipmentLine
from keyvault.transport import TransportKey
from meters import registry
from meters.models import Meter
from tests.stateful import database
from tests.stateful.faults import Fault, Faults, Worker
from tests.stateful.field import FLEET_KEY, INTERVAL_S, HonestMeter
from tests.stateful.model import Assigned, Key, Posted, Sent, Truth

ACTOR = Actor("stateful", "tests")
TRANSPORT_KEY = TransportKey(sha256(b"transport").digest())
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
        masterkey.init(settings.MASTER_KEY_FILE)
        self.workers = [Worker(), Worker()]
        self.truth = Truth(
            settings.COUNTER_GAP_RUNS,
            timedelta(seconds=settings.RETRANSMISSION_WINDOW_S),
            timedelta(days=settings.KEY_GRACE_DAYS),
        )
        self.concentrators = [Concentrator.objects.create(name=name).pk for name in ("north", "south")]
        self.letters: list[Letter] = []
        self.air: list[Sent] = []  # every honest frame that may still come to the head-end
        self.meters: list[HonestMeter] = []
        self.unshipped: list[HonestMeter] = []
        self._sealed: dict[tuple[bytes, int], bytes] = {}
        self._numbers: dict[int, bytes] = {}

    # --- meters ---------------------------------------------------------------------------------

    def commission(self, number: int, concentrator: int | None, *, derived: bool = False, keys: bool = True) -> None:
        """A new meter in the registry, with its keys or without."""
        title = (0x0024_BEFF_FE00_0001 + number).to_bytes(8, "big")
        row = Meter.objects.create(system_title=title, serial_number=f"meter {number}", commissioned_at=clock.now)
        meter = HonestMeter(row, derived=derived)
        self.meters.append(meter)
        self.truth.in_service[title] = True
        if concentrator is not None:
            self.assign(meter, concentrator)
        if derived:
            fleet_key = provisioning.create_fleet_key("fleet", FLEET_KEY)
            provisioning.provision_devices([title], fleet_key=fleet_key)
        elif keys:
            provisioning.provision_stored([NewKey(title, 1, meter.made_key), NewKey(title, 0, meter.transfer_key)])
        self.learn({(None, "active")})

    def read(self, meters: Iterable[HonestMeter], wh: int) -> None:
        """An interval goes by, and meters measure it."""
        clock.now = max(clock.now, datetime.fromtimestamp(self._next_interval_s + INTERVAL_S, clock.now.tzinfo))
        self.air += [meter.read(self._next_interval_s, wh + number) for number, meter in enumerate(meters)]
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
        registry.suspend(meter.row) if in_service[meter.title] else registry.resume(meter.row)
        in_service[meter.title] = not in_service[meter.title]

    def ship(self, meter: HonestMeter, fault: Fault | None = None) -> None:
        """The manufacturer's shipment with a meter's keys comes in."""
        wrap = TRANSPORT_KEY.wrap
        line = ShipmentLine(
            2, meter.title, 1, Algorithm.AES_CCM_16_64_128, wrap(meter.made_key), wrap(meter.transfer_key)
        )
        shipment = Shipment(Header("S-1", TRANSPORT_KEY.fingerprint, 1), [line], [], bytes(32))
        self.faults.run(lambda: shipments.import_(shipment, TRANSPORT_KEY, ACTOR), fault)
        self.learn({(None, "active")})

    # --- uplinks --------------------------------------------------------------------------------

    def post(self, place: int, frames: Sequence[Sent]) -> int:
        """Frames arrive; the id of their uplink, as yet unverified, or of the same one that came before."""
        receipt = reception.receive(
            self.concentrators[place], encode_sequence([sent.octets for sent in frames]), clock.now
        )
        self.truth.uplinks.setdefault(receipt.uplink_id, Posted(clock.now, list(frames)))
        return receipt.uplink_id

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
            self.faults.run(lambda: verification.verify(uplink_id), fault)
        done = self._verified()
        mine = self._judging([uplink_id] if uplink_id in done else [])
        if fault is None or fault.between is not None:
            assert mine, "verification came to nothing"
        self.settle([*mine, *beside], [*beside, *mine], mine)

    def verify_in_turn(self, uplink_id: int, worker: Worker) -> None:
        """A worker verifies an uplink, and what else its concentrator has waiting, oldest first."""
        with worker.at_work():
            turns.verify_in_turn(uplink_id)
        done = self._verified()
        assert uplink_id in done
        self.settle(self._judging(done))

    def sweep(self, worker: Worker) -> None:
        """What was left over is found again, and verified."""
        for uplink_id in uplinks.claim_overdue(clock.now):
            self.verify(uplink_id, worker)

    def judging_if_done(self, uplink_id: int) -> Effect:
        """The effect of an uplink that another worker verified, if it did."""

        def judge(truth: Truth) -> None:
            if uplink_id in self._verified() and truth.uplinks[uplink_id].verdicts is None:
                truth.judge_uplink(uplink_id, clock.now)

        return judge

    def verify_again(self, worker: Worker, fault: Fault | None = None) -> None:
        """The frames that waited for keys are judged again; a worker that dies has got through some uplinks."""
        waiting = reverification.waiting_uplinks()
        with worker.at_work():
            self.faults.run(lambda: reverification.verify_all_again(waiting), fault)
        effects = [partial(_judge_again, uplink_id) for uplink_id in waiting]
        alternatives = [effects[:count] for count in range(len(effects), -1, -1)]
        self.settle(*(alternatives if fault else alternatives[:1]))

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

    def deliver(self, letter: Letter, *, refuse: bool = False, lose_answer: bool = False) -> None:
        """A command reaches its meter, now or again."""
        said = self.meter_of(letter.title).obey(letter.octets, int(clock.now.timestamp()), refuse=refuse)
        if not lose_answer:
            self.air += said

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
        for name, want, have in zip(database.Observed._fields, *first, strict=True):
            assert have == want, name

    def pass_time(self, length: timedelta) -> None:
        clock.now += length
        self._next_interval_s = max(self._next_interval_s, int(clock.now.timestamp()) // INTERVAL_S * INTERVAL_S)


def _judge(uplink_id: int, truth: Truth) -> None:
    truth.judge_uplink(uplink_id, clock.now)


def _judge_again(uplink_id: int, truth: Truth) -> None:
    truth.judge_again(uplink_id, clock.now)


def real_now() -> datetime:
    """The time by the clock on the wall, for what asks the operating system."""
    return datetime.now(timezone.get_current_timezone())
