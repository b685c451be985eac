"""The non-volatile memory of a simulated meter, write by write, and records that survive power loss. No Django."""

import zlib
from collections.abc import Callable
from functools import cache
from typing import Self

import cbor2

_CHECKSUM_OCTETS = 4


class PowerLostError(Exception):
    """Power was lost while a cell was written: the volatile state of the meter is lost."""


@cache
def _two_cells(name: str) -> tuple[str, str]:
    return f"{name} 0", f"{name} 1"


class NonVolatile:
    """Named cells. A write of one cell is done, or not begun, or torn: power may be lost in between.

    ``power`` is called before each write with this memory, the cell and the octets that go there; it may put
    anything into the cell and raise PowerLostError. ``changed`` says that a cell was written since it was set to False.
    """

    __slots__ = ("cells", "changed", "power")

    def __init__(self, cells: dict[str, bytes] | None = None) -> None:
        self.cells = {} if cells is None else cells
        self.changed = False
        self.power: Callable[[NonVolatile, str, bytes], None] | None = None

    @classmethod
    def load(cls, octets: bytes) -> Self:
        return cls(cbor2.loads(octets))

    def dump(self) -> bytes:
        return cbor2.dumps(self.cells)

    def write(self, cell: str, octets: bytes) -> None:
        self.changed = True
        if self.power is not None:
            self.power(self, cell, octets)
        self.cells[cell] = octets

    def read(self, cell: str) -> bytes | None:
        """Return what ``write_checked`` wrote to a cell; None if its checksum is wrong."""
        octets = self.cells.get(cell, b"")
        body, checksum = octets[:-_CHECKSUM_OCTETS], octets[-_CHECKSUM_OCTETS:]
        return body if octets and zlib.crc32(body).to_bytes(_CHECKSUM_OCTETS, "big") == checksum else None

    def write_checked(self, cell: str, body: bytes) -> None:
        """Write a body with its checksum, and read it back."""
        self.write(cell, body + zlib.crc32(body).to_bytes(_CHECKSUM_OCTETS, "big"))
        if self.read(cell) != body:
            raise PowerLostError(f"{cell} does not hold what was written to it")


class CounterRecord:
    """A record in two copies. A later body is greater, octet by octet: the greater of the valid copies counts.

    ``store`` returns once both copies have the body: if one is lost, the other is not older than the last body that
    anybody relied on.
    """

    __slots__ = ("_cells", "_memory")

    def __init__(self, memory: NonVolatile, name: str) -> None:
        self._memory, self._cells = memory, _two_cells(name)

    def load(self) -> bytes | None:
        """Return the body; None if neither copy is valid."""
        return max(filter(None, map(self._memory.read, self._cells)), default=None)

    def store(self, body: bytes) -> None:
        for cell in self._cells:
            self._memory.write_checked(cell, body)

    def repair(self) -> None:
        """Write the valid copy over one that differs: a single copy would not survive the next write."""
        body = self.load()
        if body is not None:
            for cell in self._cells:
                if self._memory.read(cell) != body:
                    self._memory.write_checked(cell, body)
