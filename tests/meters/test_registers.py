"""The register table as a worker keeps it, and threads that share it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from meters.readings.store import Registers

ENERGY = "1-0:1.8.0"


class SlowRegisters(Registers):
    """The first look at the table takes until somebody else has had another."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.go_on = threading.Event(), threading.Event()

    def _stored_from(self) -> None:
        pass

    def _rows_of(self) -> list[tuple[Any, ...]]:
        if not self.reading.is_set():
            self.reading.set()
            assert self.go_on.wait(20)
        return [(ENERGY, 1, "Wh", 0, False, False, 0, 10)]


def test_who_comes_while_another_reads_the_table_does_not_find_it_empty() -> None:
    registers = SlowRegisters()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(registers.begin_batch, 1)
        assert registers.reading.wait(20)
        second = registers.begin_batch(1)
        registers.go_on.set()
        assert first.result().catalogue.get(ENERGY) == second.catalogue.get(ENERGY) is not None


def test_it_is_read_again_under_another_generation_or_none_alone() -> None:
    registers = SlowRegisters()
    registers.go_on.set()
    first = registers.begin_batch(1)
    assert registers.begin_batch(1) is first
    assert registers.begin_batch(2) is not first
    assert registers.begin_batch(None) is not registers.begin_batch(None)
