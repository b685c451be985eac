"""Documents about the intervals of a place: Green Button, and the Nordic market document."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from concentrators.feed.formats import green_button, nordic
from concentrators.feed.formats.event_message import name_id
from concentrators.feed.formats.green_button import UsagePoint
from concentrators.feed.formats.meter_readings import Codes
from concentrators.feed.formats.nordic import Exchange
from concentrators.feed.place_series import series_of
from meters.models import Place, Register
from meters.readings.obis import RegisterKind
from meters.registry import site_codes


class Wanted(NamedTuple):
    """The intervals that a document is of: those that begin in [start, end). Without registers: all of intervals."""

    place: Place
    start: datetime
    end: datetime
    registers: Sequence[Register] | None = None


def codes() -> Codes:
    """Return the tables of codes in force; two queries."""
    return Codes(site_codes.reading_types(), site_codes.reading_qualities())


def green_button_feed(wanted: Wanted, title: str, address: str, now: datetime) -> Iterator[bytes]:
    """Return the feed in parts; ``title`` and ``address`` are said in it. PeriodError, before the first part."""
    found = series_of(wanted.place, _registers(wanted), wanted.start, wanted.end, now)
    return green_button.green_button(UsagePoint(wanted.place.pk, title, address), found, codes(), now)


def market_document(wanted: Wanted, exchange: Exchange, now: datetime) -> Iterator[bytes]:
    """Return the document in parts; each has a number of its own. PeriodError, before the first part."""
    found = series_of(wanted.place, _registers(wanted), wanted.start, wanted.end, now)
    message_id = name_id(f"market-document/{wanted.place.pk}/{exchange}/{wanted.start}/{wanted.end}/{now.isoformat()}")
    return nordic.document(exchange, found, site_codes.reading_qualities(), now, message_id)


def _registers(wanted: Wanted) -> Sequence[Register]:
    if wanted.registers is not None:
        return wanted.registers
    return list(Register.objects.filter(kind=RegisterKind.INTERVAL).order_by("obis_code"))
