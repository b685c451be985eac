"""What a content consists of: the fields of its line in the table, its reader, and the catalogue. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from meters.readings.push.definition import Definition
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadTimes, Value


class RegisterRow(NamedTuple):
    """A register in the memory of a worker; ``minimum`` and ``maximum`` bound its values, in its steps."""

    id: int
    unit: str
    scaler: int
    is_interval: bool
    is_event: bool
    minimum: int
    maximum: int


class PushProfileRow(NamedTuple):
    """A push profile as workers keep it: of the meters whose titles begin with ``title_prefix`` (3 to 8 octets)."""

    title_prefix: bytes
    skeleton_sha256: bytes
    definition: Definition


class Catalogue:
    """The registers by OBIS code, and the push profiles where a batch needs them, the newest first.

    It never changes: another state of the tables is another catalogue.
    """

    def __init__(self, rows: Mapping[str, RegisterRow], profiles: Sequence[PushProfileRow] = ()) -> None:
        self._rows = rows
        self.profiles = profiles
        self._codes = {row.id: code for code, row in rows.items()}

    def get(self, obis_code: str) -> RegisterRow | None:
        return self._rows.get(obis_code)

    def id_of(self, obis_code: str) -> int | None:
        row = self._rows.get(obis_code)
        return None if row is None else row.id

    def code_of(self, register_id: int) -> str:
        """Return the OBIS code of a register that a value names."""
        return self._codes.get(register_id) or f"register {register_id}"


class Reader(Protocol):
    """Reads the payloads of one content by one catalogue; it may learn from payloads that it has read."""

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        """Return all values of an authentic payload of the meter with that system title (8 octets), or none.

        ``lengths`` has the interval length of each time, unless it was always ``interval_minutes``;
        ``serial_number`` is the meter's in the registry, for payloads that may name it. PayloadError names
        the first of these reasons: algorithm_mismatch (another content),
        payload_invalid (not of this form), unknown_profile (a form that nobody registered), identity_mismatch
        (another meter's name), payload_invalid (two values at one place, an interval that begins on no whole minute),
        too_old (before ``period``), unknown_register,
        registry_mismatch (another unit, a value finer than the register, an interval off its grid), implausible
        (outside the register's bounds), clock_skew (after ``period``, or an interval that is not over by its end).
        """
        ...


class Content(NamedTuple):
    """A content: its name, and what makes its reader for a catalogue."""

    name: str
    reader: Callable[[Catalogue], Reader]
    reference: str
