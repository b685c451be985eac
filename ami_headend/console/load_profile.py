"""The load profile that the pages of a meter and of a place share: by day, week or month, with days and gaps."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.http import urlencode

from ami_headend.console import profiles
from ami_headend.console.formatting import completeness_tone, moment, thousands
from ami_headend.console.page import ConsolePage
from ami_headend.console.periods import KINDS, ShownPeriod, day_of, midnight, period_of
from ami_headend.console.profiles import DayShare
from ami_headend.core.text import counted
from ami_headend.web.tables import HtmlTable, columns_of, table
from meters.models import Meter, Place, Register
from meters.readings.expectation import ExpectedPeriod
from meters.readings.gaps import Gap, GapReport
from meters.readings.obis import LOAD_PROFILE, RegisterKind
from meters.readings.queries import Interval

READ_READINGS = "meters.view_reading"
DAYS = 35
_ROWS = 10


class LoadProfilePage(ConsolePage):
    """A page whose address names a period and an interval register (``period``, ``on``, ``register``)."""

    @cached_property
    def shown(self) -> ShownPeriod:
        """Return the period that the address names; today by default."""
        try:
            day = date.fromisoformat(self.request.GET.get("on", ""))
        except ValueError:
            day = day_of(timezone.now())
        kind = self.request.GET.get("period", "")
        return period_of(kind if kind in KINDS else "day", min(max(day, date(1970, 1, 2)), date(9990, 1, 1)))

    @cached_property
    def registers(self) -> list[Register]:
        """Return the registers with a load profile: interval registers of energy."""
        return list(Register.objects.filter(kind=RegisterKind.INTERVAL, unit="Wh").order_by("obis_code"))

    @property
    def register(self) -> Register:
        """Return the register that the address names; the load profile by default."""
        by_code = {register.obis_code: register for register in self.registers}
        return by_code.get(self.request.GET.get("register", ""), by_code[LOAD_PROFILE])

    @property
    def address(self) -> dict[str, str]:
        """Return the parameters of the address, as they were understood."""
        return {
            "period": self.shown.kind,
            "on": self.shown.first_day.isoformat(),
            "register": self.register.obis_code,
        }

    def first_day(self, now: datetime) -> date:
        """Return the first day that the page covers."""
        return min(self.shown.first_day, day_of(now) - timedelta(days=DAYS - 1))

    def load_profile(
        self,
        curve: Sequence[Interval],
        recent: Sequence[Interval],
        expected: Sequence[ExpectedPeriod],
        report: GapReport,
        now: datetime,
    ) -> dict[str, Any]:
        """Return the context of the load profile: ``curve`` of the shown period, ``recent`` of the last DAYS days."""
        shown, register, today = self.shown, self.register, day_of(now)
        days = [today - timedelta(days=n) for n in reversed(range(DAYS))]
        return {
            "shown": shown,
            "profile": profiles.profile(shown, curve, expected, register, now),
            "register": register,
            "registers": self.registers if len(self.registers) > 1 else None,
            "periods": [(kind, self.link(period=kind)) for kind in KINDS],
            "previous": self.link(on=shown.previous.isoformat()),
            "following": self.link(on=shown.following.isoformat()) if shown.end <= now else None,
            "today": self.link(on=today.isoformat()) if not shown.start <= now < shown.end else None,
            "days": [_day(share, today) for share in profiles.by_day(days, recent, expected)],
            "report": report,
            "tone": completeness_tone(report.expected - report.missing, report.expected),
            "gaps": _gaps(report.gaps[:_ROWS]),
            "more_gaps": max(0, len(report.gaps) - _ROWS),
        }

    def link(self, **changes: str) -> str:
        """Return the address with changed parameters."""
        return f"?{urlencode({**self.address, **changes})}"


def recent_since(now: datetime) -> datetime:
    """Return the start of the first of the last DAYS days."""
    return midnight(day_of(now) - timedelta(days=DAYS - 1))


def exports(meter: Meter, start: datetime, end: datetime, register: Register) -> list[tuple[str, str]]:
    """Return names and API addresses of downloads of a meter's readings in [start, end)."""
    asked = {
        "meter": bytes(meter.system_title).hex(),
        "register": register.obis_code,
        "from": start.isoformat().replace("+00:00", "Z"),
        "to": end.isoformat().replace("+00:00", "Z"),
    }
    return [
        (name, f"{reverse('readings')}?{urlencode({**asked, 'format': name.lower()})}") for name in ("CSV", "Parquet")
    ]


def green_button(place: Place, start: datetime, end: datetime) -> tuple[str, str]:
    """Return the name and the API address of the download of a place's intervals in [start, end) as Green Button."""
    asked = {"from": start.isoformat().replace("+00:00", "Z"), "to": end.isoformat().replace("+00:00", "Z")}
    return "Green Button", f"{reverse('green-button', args=[place.pk])}?{urlencode(asked)}"


def _gaps(found: Sequence[Gap]) -> HtmlTable:
    return table(
        columns_of("from", "to", "#intervals"),
        [[moment(gap.start), moment(gap.end), thousands(gap.intervals)] for gap in found],
    )


def _day(share: DayShare, today: date) -> dict[str, Any]:
    """Return a day of the strip: its completeness in a word and a colour, and the link to it."""
    if not share.expected:
        tone, said = "none", "nothing expected"
    elif share.counted >= share.expected:
        tone, said = "whole", "complete"
    else:
        tone = "part" if share.counted else "empty"
        said = f"{share.expected - share.counted} of {counted(share.expected, 'interval')} missing"
    return {
        "day": share.day,
        "tone": tone,
        "said": f"{share.day:%a} {share.day.day} {share.day:%B}: {said}",
        "url": f"?{urlencode({'period': 'day', 'on': share.day.isoformat()})}",
        "is_today": share.day == today,
    }
