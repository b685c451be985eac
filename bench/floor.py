"""The floor: bare loops process the same frames in two processes.

Generic CBOR decoding, one new cipher for each frame, psycopg's binary COPY row by row into the same tables with the
same constraints, one batched counter UPDATE and one commit per 1,000 frames. No HTTP, Redis, Celery, Django, totals or
verdicts. Traffic keys are derived and connections open before the clock starts.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import NamedTuple

import cbor2
import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

BATCH = 1000
_UPLINK_ID = 0
_COPY = """COPY meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
           FROM STDIN (FORMAT BINARY)"""
_TYPES = ["timestamptz", "int8", "int8", "int4", "int2", "int2"]
# For psycopg, the text of an array takes a third of the time of a list: the floor should be hard to beat.
_UPDATE = """UPDATE keyvault_invocationcounter c SET highest = n.highest
             FROM unnest(%s::int[], %s::bigint[]) AS n(key_id, highest)
             WHERE c.key_id = n.key_id AND c.highest < n.highest"""


class MeterRow(NamedTuple):
    """The data of a meter that the floor holds in memory: traffic key, Base IV and the ids of its rows."""

    key: bytes
    base_iv: int
    meter_id: int
    key_id: int


class Floor:
    """Two waiting processes, which get their frames before the clock starts."""

    def __init__(self, url: str, meters: dict[bytes, MeterRow], registers: dict[str, tuple[int, int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, url), daemon=True)
            process.start()
            ours.send((meters, registers))
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, frames: list[list[bytes]]) -> float:
        """Process the frames of all concentrators, every second one in each process; return the seconds."""
        for half, pipe in enumerate(self._pipes):
            pipe.send([frame for block in frames[half::2] for frame in block])
        for pipe in self._pipes:
            pipe.recv()
        began = time.perf_counter()
        for pipe in self._pipes:
            pipe.send("go")
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - began

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def started(url: str, meters: dict[bytes, MeterRow], registers: dict[str, tuple[int, int]]) -> Iterator[Floor]:
    """Run the floor's processes on a database until the block ends."""
    floor = Floor(url, meters, registers)
    try:
        yield floor
    finally:
        floor.close()


def _serve(pipe: Connection, url: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        meters, registers = pipe.recv()
        with psycopg.connect(url) as connection:
            while True:
                frames = pipe.recv()
                pipe.send("ready")
                pipe.recv()
                for start in range(0, len(frames), BATCH):
                    _batch(connection, frames[start : start + BATCH], meters, registers)
                pipe.send("done")
    except EOFError:
        pass  # the benchmark is over


def _batch(
    connection: "psycopg.Connection[tuple[object, ...]]",
    frames: list[bytes],
    meters: dict[bytes, MeterRow],
    registers: dict[str, tuple[int, int]],
) -> None:
    rows = []
    highest: dict[int, int] = {}
    for octets in frames:
        protected, _, ciphertext = cbor2.loads(octets).value
        header = cbor2.loads(protected)
        counter = int.from_bytes(header[6], "big")
        meter = meters[header[4]]
        nonce = (meter.base_iv ^ counter).to_bytes(13, "big")
        aad = cbor2.dumps(["Encrypt0", protected, b""])
        pack = cbor2.loads(AESCCM(meter.key, 8).decrypt(nonce, ciphertext, aad))
        captured_at = datetime.fromtimestamp(pack[0][-3], UTC)
        for record in pack:
            register_id, minutes = registers[record[0]]
            rows.append((captured_at, record[2], _UPLINK_ID, meter.meter_id, register_id, minutes))
        highest[meter.key_id] = counter
    with connection.cursor() as cursor:
        with cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)
        keys = "{" + ",".join(map(str, highest)) + "}"
        cursor.execute(_UPDATE, (keys, "{" + ",".join(map(str, highest.values())) + "}"), prepare=True)
    connection.commit()
