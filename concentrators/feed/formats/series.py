"""The intervals of one usage point and register, as Green Button and the Nordic document show them. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from meters.codes.qualities import Fact


class Point(NamedTuple):
    """One interval: its start, and its value in steps of the register; None if it is missing."""

    start: datetime
    steps: int | None
    fact: Fact


@dataclass(frozen=True)
class Series:
    """Consecutive intervals of one length, oldest first, missing ones included; one step is 10^``scaler`` ``unit``."""

    obis_code: str
    unit: str
    scaler: int
    interval_minutes: int
    points: tuple[Point, ...]

    @property
    def start(self) -> datetime:
        """The start of the first interval."""
        return self.points[0].start

    @property
    def end(self) -> datetime:
        """The end of the last interval."""
        return self.points[-1].start + timedelta(minutes=self.interval_minutes)

    def value(self, point: Point) -> Decimal:
        """Return the value of a point in the register's unit, exactly."""
        return Decimal(point.steps or 0).scaleb(self.scaler)
