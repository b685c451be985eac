"""Content ``masked``: a SenML pack of masked values, or of events (docs/schemes.md). Pure.

A masked value is data (label vd) of 8 octets, big endian. The meter says nothing else of what it measures: a plain
value would give away what the mask hides.
"""

from meters.contents.lines import Catalogue, Content
from meters.contents.plain import read_pack, read_records, register_of
from meters.readings.senml import DataRecord, SenMLError, SenmlRecord, parse_data_pack
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value

_OCTETS = 8


class MaskedReader:
    """Reads packs of masked values, and packs of events."""

    def __init__(self, registers: Catalogue) -> None:
        self._registers = registers

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        """The values of a pack, or PayloadError: see Reader. A plain value of any register but events is
        algorithm_mismatch, whatever else the pack says.
        """
        try:
            records = parse_data_pack(payload)
        except SenMLError as error:
            raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, str(error)) from None
        events = [self._event(record, system_title) for record in records if isinstance(record, SenmlRecord)]
        masked = [self._masked(record, system_title) for record in records if isinstance(record, DataRecord)]
        if not masked:
            return read_pack(payload, system_title, interval_minutes, self._registers, period, lengths)[1]
        if events:
            raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, "masked values and events come in packs of their own")
        return read_records(masked, system_title, interval_minutes, self._registers, period, lengths, masked=True)

    def _event(self, record: SenmlRecord, system_title: bytes) -> SenmlRecord:
        register = register_of(record.name, system_title, self._registers)
        if register is not None and not register.is_event:
            detail = f"{record.name[:80]} is a plain value, and this meter masks what it measures"
            raise PayloadError(PayloadRefusal.ALGORITHM_MISMATCH, detail)
        return record

    def _masked(self, record: DataRecord, system_title: bytes) -> SenmlRecord:
        """A record whose value is the number that the data says."""
        name, unit, data, time_s = record
        register = register_of(name, system_title, self._registers)
        if register is not None and not register.is_interval:
            detail = f"{name[:80]} is no register of intervals, and others are never masked"
            raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)
        if len(data) != _OCTETS:
            detail = f"a masked value of {name[:80]} has {_OCTETS} octets, not {len(data)}"
            raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)
        return SenmlRecord(name, unit, int.from_bytes(data, "big"), time_s)


MASKED = Content("masked", MaskedReader, reference="SenML in CBOR, RFC 8428 section 6, label vd")
