"""The meters of a benchmark, and their frames, which processes seal ahead of the measurement. Pure."""

import multiprocessing
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from keyvault.cose.algorithms import CCM
from keyvault.cose.kdf import uplink_key
from keyvault.cose.structures import enc_structure, encode_frame, encode_protected, make_kid
from meters.readings.obis import LOAD_PROFILE

ALG = 10
EPOCH = 1
INTERVAL_S = 1800
REGISTERS = ("1-0:1.8.0", LOAD_PROFILE)


class Meter(Protocol):
    """A meter that seals, in a process that gets it pickled."""

    @property
    def readings(self) -> int:
        """How many readings a frame has."""
        ...

    def payload(self, at_s: int, total: int, energy_wh: int) -> bytes:
        """Return what it says of an interval: when it begins, the total at its end, and its energy."""
        ...

    def sealer(self) -> Callable[[int, bytes], bytes]:
        """Return what seals the payload of an interval, by the number of the interval."""
        ...


class PackMeter:
    """A meter that says two registers in a pack (RFC 8428)."""

    readings = len(REGISTERS)

    @property
    def base_name(self) -> str:
        """What its packs name it, where they do not go without."""
        return ""

    def payload(self, at_s: int, total: int, energy_wh: int) -> bytes:
        named = {-2: self.base_name} if self.base_name else {}
        begins = {-1: 26, **named, -3: at_s}
        return cbor2.dumps([{**begins, 0: REGISTERS[0], 1: "Wh", 2: total}, {0: REGISTERS[1], 1: "Wh", 2: energy_wh}])


@dataclass(frozen=True)
class MeterKey(PackMeter):
    """The data that a meter needs to seal: its kid, traffic key and Base IV."""

    kid: bytes
    key: bytes = field(repr=False)
    base_iv: bytes = field(repr=False)

    def sealer(self) -> Callable[[int, bytes], bytes]:
        cipher = AESCCM(self.key, CCM[ALG].tag_octets)
        base_iv = int.from_bytes(self.base_iv, "big")

        def seal(n: int, payload: bytes) -> bytes:
            protected = encode_protected(ALG, self.kid, n)
            nonce = (base_iv ^ n).to_bytes(13, "big")
            return encode_frame(protected, cipher.encrypt(nonce, payload, enc_structure(protected)))

        return seal


@dataclass(frozen=True)
class Fleet:
    """Meters by concentrator; interval n has counter n and begins n intervals later."""

    start_s: int
    titles: list[list[bytes]]
    meters: Sequence[Sequence[Meter]] = field(repr=False)

    @property
    def size(self) -> int:
        return sum(map(len, self.titles))

    @property
    def readings(self) -> int:
        """How many readings one frame of each meter has, all together."""
        return sum(meter.readings for block in self.meters for meter in block)


@contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """Give two fresh processes that seal, because ours has threads and connections."""
    # Ctrl-C goes to the benchmark, which then ends these.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=signal.signal, initargs=ignore) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def titles(concentrators: int, meters_each: int) -> list[list[bytes]]:
    """Return new system titles by concentrator."""
    run = b"\x02" + secrets.token_bytes(3)
    return [[run + (c * meters_each + m).to_bytes(4, "big") for m in range(meters_each)] for c in range(concentrators)]


def seal(executor: ProcessPoolExecutor, fleet: Fleet, first_interval: int, intervals: int) -> list[list[bytes]]:
    """Return the frames of each concentrator, in order of time."""
    jobs = [executor.submit(_seal, block, fleet.start_s, first_interval, intervals) for block in fleet.meters]
    return [job.result() for job in jobs]


def derive(titles: list[bytes], device_keys: list[bytes]) -> list[MeterKey]:
    """Derive the data that meters with these titles and device keys need to seal."""
    meters = []
    for title, device_key in zip(titles, device_keys, strict=True):
        traffic = uplink_key(device_key, title, EPOCH, ALG)
        meters.append(MeterKey(make_kid(title, EPOCH), traffic.key, traffic.base_iv))
    return meters


def _seal(meters: Sequence[Meter], start_s: int, first_interval: int, intervals: int) -> list[bytes]:
    sealers = [(meter.payload, meter.sealer()) for meter in meters]
    frames = []
    for n in range(first_interval, first_interval + intervals):
        for position, (payload, seal_one) in enumerate(sealers):
            energy_wh = 50 + (position + n) % 400
            total = 1_200_000 + n * 250 + energy_wh
            frames.append(seal_one(n, payload(start_s + n * INTERVAL_S, total, energy_wh)))
    return frames
