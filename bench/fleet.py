"""The meters of a benchmark, and their frames, which processes seal ahead of the measurement. Pure."""

import multiprocessing
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class MeterKey:
    """The data that a meter needs to seal: its kid, traffic key and Base IV."""

    kid: bytes
    key: bytes = field(repr=False)
    base_iv: bytes = field(repr=False)


@dataclass(frozen=True)
class Fleet:
    """Meters by concentrator, each with its own device key; interval n has counter n and begins n intervals later."""

    start_s: int
    titles: list[list[bytes]]
    device_keys: list[list[bytes]] = field(repr=False)
    meters: list[list[MeterKey]] = field(repr=False)

    @property
    def size(self) -> int:
        return sum(map(len, self.titles))


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


def make(executor: ProcessPoolExecutor, concentrators: int, meters_each: int, start_s: int) -> Fleet:
    """Make a fleet with random keys; ``start_s`` is the start of the first interval, a multiple of INTERVAL_S."""
    run = b"\x02" + secrets.token_bytes(3)
    titles = [
        [run + (c * meters_each + m).to_bytes(4, "big") for m in range(meters_each)] for c in range(concentrators)
    ]
    keys = [[secrets.token_bytes(32) for _ in block] for block in titles]
    return Fleet(start_s, titles, keys, list(executor.map(derive, titles, keys)))


def seal(executor: ProcessPoolExecutor, fleet: Fleet, first_interval: int, intervals: int) -> list[list[bytes]]:
    """Return the frames of each concentrator, with two readings a frame, in order of time."""
    jobs = [executor.submit(_seal, block, fleet.start_s, first_interval, intervals) for block in fleet.meters]
    return [job.result() for job in jobs]


def derive(titles: list[bytes], device_keys: list[bytes]) -> list[MeterKey]:
    """Derive the data that meters with these titles and device keys need to seal."""
    meters = []
    for title, device_key in zip(titles, device_keys, strict=True):
        traffic = uplink_key(device_key, title, EPOCH, ALG)
        meters.append(MeterKey(make_kid(title, EPOCH), traffic.key, traffic.base_iv))
    return meters


def _seal(meters: list[MeterKey], start_s: int, first_interval: int, intervals: int) -> list[bytes]:
    ciphers = [(m.kid, AESCCM(m.key, CCM[ALG].tag_octets), int.from_bytes(m.base_iv, "big")) for m in meters]
    frames = []
    for n in range(first_interval, first_interval + intervals):
        for position, (kid, cipher, base_iv) in enumerate(ciphers):
            energy_wh = 50 + (position + n) % 400
            pack = [
                {-1: 26, -3: start_s + n * INTERVAL_S, 0: REGISTERS[0], 1: "Wh", 2: 1_200_000 + n * 250 + energy_wh},
                {0: REGISTERS[1], 1: "Wh", 2: energy_wh},
            ]
            protected = encode_protected(ALG, kid, n)
            nonce = (base_iv ^ n).to_bytes(13, "big")
            frames.append(encode_frame(protected, cipher.encrypt(nonce, cbor2.dumps(pack), enc_structure(protected))))
    return frames
