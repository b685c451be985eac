"""Concentrators of the head-end under test that hold keys: titles, hop keys, sums, their own next keys."""

import io
from datetime import timedelta
from hashlib import sha256

import cbor2

from concentrators.commands import compromises, concentrator_titles, queue
from concentrators.fleet import concentrator_keys, hop_key_sets
from concentrators.fleet.hop_key_sets import NoKeyError
from concentrators.models import Concentrator
from concentrators.totals import reported_sums
from keyvault.cose.structures import make_kid, parse_frame
from keyvault.device_keys import provisioning
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey
from tests.stateful import database
from tests.stateful.downlink import Downlink
from tests.stateful.entities import TRANSFER_EPOCH
from tests.stateful.faults import Fault
from tests.stateful.field import HonestMeter
from tests.stateful.ground import ACTOR, clock
from tests.stateful.holders import ALG, Holder


class Holding(Downlink):
    """What operators do with such concentrators, and what these ask for and say."""

    def hold_keys(self, concentrator: int) -> Holder:
        """Give a concentrator a system title and keys of its own; its meters are told the title."""
        row = Concentrator.objects.get(pk=concentrator)
        title = (0x0024_BEFF_FEC0_0000 + concentrator).to_bytes(8, "big")
        concentrator_keys.give(ACTOR, row, title)
        key, transfer_key = (sha256(title + bytes([epoch])).digest() for epoch in (1, 0))
        entries = [NewKey(title, 1, key, ALG, Holder.scheme), NewKey(title, 0, transfer_key, ALG)]
        provisioning.provision_stored(entries)
        self.holders[title] = Holder(title, key, transfer_key)
        self.truth.holders[title] = concentrator
        self.learn({(None, "active")})
        return self.holders[title]

    def holder_of(self, place: int) -> Holder:
        return list(self.holders.values())[place]

    def fetch_hop_keys(self, holder: Holder, fault: Fault | None = None) -> None:
        """A concentrator asks for the keys of its meters; nothing comes where it has no active key of its own."""
        clock.now += self.request_takes
        concentrator = self.truth.holders[holder.title]
        try:
            octets = self.faults.run(lambda: hop_key_sets.sealed(concentrator, clock.now), fault)
        except NoKeyError:
            octets = None
            assert not self._has(holder, "active"), "no hop keys for an active key"
        if octets is not None:
            for one in _items(octets):
                frame = parse_frame(one)
                self.note_sealed(frame.kid, frame.counter, one)
            holder.take_keys(octets)
        self.settle()

    def say_sums(self, holder: Holder) -> None:
        """A concentrator says what its meters add up to."""
        self.air += holder.say_sums(clock.now_s)

    def begin_next_key(self, holder: Holder) -> None:
        """An operator begins the next key of a concentrator; one that has no usable transfer key gets none."""
        try:
            concentrator_keys.rotate(ACTOR, Concentrator.objects.get(system_title=holder.title))
        except EpochError:
            assert self.truth.keys[holder.title, 0].state != "active"
        self.learn({(None, "pending")})

    def fetch_next_key(self, holder: Holder, fault: Fault | None = None) -> None:
        """A concentrator asks for its next key, and sends under it from now on, if there is one."""
        clock.now += self.request_takes
        command = self.faults.run(lambda: concentrator_keys.next_key(holder.title, clock.now), fault)
        newest = self.truth.newest(holder.title)
        assert newest is not None
        if command is not None:
            frame = parse_frame(command)
            self.note_sealed(frame.kid, frame.counter, command)
            newest[1].given_away = True
            holder.renew(command)
        self.settle()

    def compromise_holder(self, holder: Holder) -> None:
        """Somebody else knows a concentrator's newest key: its meters are to get new ones."""
        epoch, _ = self.truth.newest(holder.title) or (0, None)
        row = DeviceKey.objects.get(system_title=holder.title, epoch=epoch)
        compromises.cut_off([row.pk], ACTOR, clock.now)
        self.learn({(before, "compromised") for before in ("pending", "active", "retiring", "retired")})

    def tell_concentrator(self, meter: HonestMeter) -> None:
        """An operator has a meter told its concentrator once more."""
        meter.row.refresh_from_db()
        concentrator_titles.tell_again(meter.row, clock.now, "test")

    def give_new_key(self, meter: HonestMeter) -> None:
        """As operators do; the meter has it when this returns, and the head-end does not know that yet."""
        meter.row.refresh_from_db()
        queue.enqueue_keys([meter.row], "test", clock.now)
        self.learn({(None, "pending")})
        for concentrator in self.concentrators:
            self.fetch(concentrator)
        for holder in self.holders.values():
            self.fetch_hop_keys(holder)
        under = make_kid(meter.title, TRANSFER_EPOCH)
        self.deliver(next(letter for letter in reversed(self.letters) if parse_frame(letter.octets).kid == under))

    def bring_home(self, meter: HonestMeter) -> None:
        """A meter is told the concentrator that it belongs to, which gets its keys; what waits before that goes on."""
        home = self.truth.assigned[meter.title][-1].concentrator
        title = next(title for title, concentrator in self.truth.holders.items() if concentrator == home)
        for turn in range(40):  # commands that went before have to end first
            letters, said = len(self.letters), len(self.air)
            self.fetch(home)
            self.fetch_hop_keys(self.holders[title])
            for letter in self.letters[letters:]:
                if letter.title == meter.title:
                    self.deliver(letter)
            if meter.concentrator == title:
                return
            if self.air[said:]:
                self.arrive(0, self.air[said:], worker=0)
            elif turn:
                self.tell_concentrator(meter)
                self.pass_time(timedelta(hours=6))
        raise AssertionError(f"{meter.title.hex()} never hears of its concentrator")

    def compare_sums(self) -> None:
        """The schedule compares what concentrators say with what stands."""
        reported_sums.compare(clock.now)

    def assert_sums_compared(self) -> None:
        """Every sum was compared with what stands now."""
        compared = database.compared()
        for place in self.truth.said.standing:
            own = self.truth.own_sum(*place)
            assert compared.get(place) == own, f"our sum of {place} is {compared.get(place)}, and ought to be {own}"

    def _has(self, holder: Holder, state: str) -> bool:
        keys = self.truth.keys.items()
        return any(title == holder.title and epoch and key.state == state for (title, epoch), key in keys)


def _items(sequence: bytes) -> list[bytes]:
    """The items of a CBOR sequence, as octets."""
    decoder = cbor2.CBORDecoder(stream := io.BytesIO(sequence))
    items, start = [], 0
    while start < len(sequence):
        decoder.decode()
        items.append(sequence[start : stream.tell()])
        start = stream.tell()
    return items
