"""Content ``events``: a SenML pack of events alone (docs/schemes.md, hop). Pure.

A concentrator that reports readings of a meter must not report its events, such as answers to commands: the meter sends
these itself.
"""

from meters.contents.lines import Catalogue, Content, RegisterRow
from meters.contents.plain import read_pack, register_of
from meters.readings.senml import SenMLError, SenmlRecord, parse_pack
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value


def named_registers(
    payload: bytes, system_title: bytes, registers: Catalogue
) -> list[tuple[SenmlRecord, RegisterRow | None]]:
    """Return the records of a pack, each with its register or None; PayloadError if it is no pack."""
    try:
        records = parse_pack(payload)
    except SenMLError as error:
        raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, str(error)) from None
    return [(record, register_of(record.name, system_title, registers)) for record in records]


class EventsReader:
    """Reads packs in which every record is an event."""

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
        """Return the events of a pack; PayloadError as in Reader. A reading is algorithm_mismatch."""
        for record, register in named_registers(payload, system_title, self._registers):
            if register is not None and not register.is_event:
                detail = f"{record.name[:80]} is a reading, and this frame may bring events alone (unless it is signed)"
                raise PayloadError(PayloadRefusal.ALGORITHM_MISMATCH, detail)
        return read_pack(payload, system_title, interval_minutes, self._registers, period, lengths)[1]


EVENTS = Content("events", EventsReader, reference="SenML in CBOR, RFC 8428 section 6")
