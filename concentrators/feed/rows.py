"""The rows of the feed, and pages of them. Pure.

A row is told at a position (the transaction that stored it, numbered in the order of commits) and has a number in it.
Both never change within an era, which lasts until the database is restored from a backup.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar


class Resource(StrEnum):
    """What a feed is of."""

    READINGS = "readings"
    EVENTS = "events"


class Change(StrEnum):
    """Why a row is told."""

    NEW = "new"  # it is stored now
    RELABELLED = "relabelled"  # it was told before, with another interval length, which was wrong
    FLAGGED = "flagged"  # it was told before, and has failed a check since
    CLEARED = "cleared"  # it had failed a check, and does so no longer


class Quality(StrEnum):
    """What is known of how far a value can be trusted."""

    AUTHENTIC = "authentic"  # protected from the meter to the head-end
    CARRIED_IN_CLEAR = "carried_in_clear"  # authentic, but anybody on the way could read it
    TRUSTED_AT_CONCENTRATOR = "trusted_at_concentrator"  # its concentrator opened it, and vouches for it
    UNAUTHENTICATED = "unauthenticated"  # may have been changed on the way
    SIGNED = "signed"  # the meter signed it: docs/evidence.md
    UNKNOWN_PROTECTION = "unknown_protection"  # of a scheme that this release does not know
    FAILED = "failed"  # a check of validation: docs/operations/validation.md


class RegisterKind(StrEnum):
    """How to read the values of a register."""

    CUMULATIVE = "cumulative"  # a register that only counts up
    INTERVAL = "interval"  # the energy of one interval
    INSTANTANEOUS = "instantaneous"


@dataclass(frozen=True, slots=True)
class Told:
    """What rows of readings and events have in common."""

    position: int
    row: int  # its number in the position, from 0 on, counted apart for readings and for events
    change: Change
    system_title: str  # EUI-64, 16 hex digits
    serial_number: str
    usage_point: str | None  # the name of the place where the meter hung at ``captured_at``; None if it hung nowhere
    obis_code: str  # A-B:C.D.E
    captured_at: datetime  # of an interval: its start. UTC
    scheme: str  # that protected it on its way (docs/schemes.md)
    quality: tuple[Quality, ...]  # at least one
    received_at: datetime | None  # None: its uplink is gone, as those are that are older than retention
    verified_at: datetime  # when this position was stored
    uplink: int  # the id of the uplink that brought it


@dataclass(frozen=True, slots=True)
class ReadingRow(Told):
    """A reading: an exact value of a register."""

    kind: RegisterKind
    interval_minutes: int  # of an interval register; 0 of any other
    value: Decimal  # exact, in ``unit``; str() and format(, "f") write all its digits
    unit: str  # SenML (RFC 8428, RFC 8798): Wh, varh, W, var, V, A, Hz ...
    former_interval_minutes: int | None = None  # as it was told before, if relabelled

    @property
    def interval_start(self) -> datetime | None:
        """The start of the interval; None if it is of none."""
        return self.captured_at if self.interval_minutes else None

    @property
    def interval_end(self) -> datetime | None:
        """The end of the interval; None if it is of none."""
        return self.captured_at + timedelta(minutes=self.interval_minutes) if self.interval_minutes else None


@dataclass(frozen=True, slots=True)
class EventRow(Told):
    """An event that a meter reported of itself: ``value`` says what the register's log means by it."""

    value: int


Row = TypeVar("Row", bound=Told)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Consecutive rows of one resource, and the cursor after the last of them.

    A position may be cut in two by the end of a page. ``at_end``: there was nothing after it yet.
    """

    era: str
    rows: tuple[Row, ...]
    cursor: str
    at_end: bool
