"""How figures are written on the console, each in one place; templatetags/console.py offers them to templates."""

import math
import re
from datetime import UTC, datetime
from typing import Any

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ami_headend.core import clock
from concentrators.failures.kinds import FailureKind, Severity

SEVERITY_COLOURS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "danger"}
NOTHING = "-"
COMPLETE, LACKING = 0.98, 0.95  # of the expected intervals
_UTC_TIMES = re.compile(r"\b([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(?::[0-9]{2})?) UTC\b")

_AGES = ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h"))
# (values below this limit, units in one prefixed unit, prefix)
PREFIXES = ((10**4, 1, ""), (10**7, 10**3, "k"), (10**10, 10**6, "M"), (math.inf, 10**9, "G"))


def thousands(number: float | None) -> str:
    """Write 1234567 as 1,234,567; a dash for None."""
    return NOTHING if number is None else f"{number:,}"


def energy(watt_hours: float | None) -> str:
    """Write an energy in Wh in the unit that suits its size: 950 Wh, 12.3 kWh, 1,234.5 MWh."""
    return _scaled(watt_hours, "Wh")


def power(watts: float | None) -> str:
    """Write a power in W in the unit that suits its size."""
    return _scaled(watts, "W")


def percent(part: float | None, whole: float | None) -> str:
    """Write a part of a whole as 99.8 %; an incomplete part is never rounded to 100 %, nor a positive one to 0 %."""
    if part is None or not whole:
        return NOTHING
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    return f"{min(share, 99.9) if part < whole else share:.1f} %"


def completeness_tone(counted: float, expected: float) -> str:
    """Return the tone of a completeness: good from 98 % on, unsure from 95 % on, else bad; empty if nothing is
    expected.
    """
    if not expected:
        return ""
    return "good" if counted >= COMPLETE * expected else "unsure" if counted >= LACKING * expected else "bad"


def duration(seconds: float) -> str:
    """Write a duration in one fitting unit: 45 s, 3 min, 5 h, 12 days; with a minus if it is negative."""
    sign, whole = "-" if seconds <= -1 else "", int(abs(seconds))
    for limit, unit, name in _AGES:
        if whole < limit:
            return f"{sign}{whole // unit} {name}"
    return f"{sign}{whole // 86_400} days"


def ago(at: datetime | None, now: datetime | None = None) -> SafeString | str:
    """Write how long ago a time is, with the time itself as a tooltip; ``never`` for None.

    A time in the future was stored when the clock ran ahead, and the page says so.
    """
    if at is None:
        return "never"
    now = now or timezone.now()
    if clock.is_ahead(at, now):
        return _time(at, f"{duration(-clock.age_s(at, now))} in the future")
    return _time(at, f"{duration(max(0.0, clock.age_s(at, now)))} ago")


def moment(at: datetime | None) -> SafeString | str:
    """Write a time in the viewer's zone, with the exact time as a tooltip; a dash for None."""
    return NOTHING if at is None else _time(at, str(localize(timezone.localtime(at))))


def in_zone(text: str) -> SafeString:
    """Convert the UTC times in a text of ours, such as the summary of an alert, to the viewer's zone."""
    parts = _UTC_TIMES.split(text)
    return format_html_join("", "{}{}", zip(parts[::2], [*map(_from_utc, parts[1::2]), ""], strict=True))


def zone_name(now: datetime) -> str:
    """Return the viewer's time zone, such as Europe/Berlin (UTC+01:00)."""
    local = timezone.localtime(now)
    name, offset = timezone.get_current_timezone_name(), f"{local:%z}"
    return "UTC" if name == "UTC" else f"{timezone.get_current_timezone()} (UTC{offset[:3]}:{offset[3:]})"


def link(url: str, text: Any) -> SafeString:
    """Return a link for a table or text."""
    return format_html('<a class="console-link" href="{}">{}</a>', url, text)


def label(text: Any, colour: str = "", tooltip: str = "") -> SafeString:
    """Return a state as unfold's label: ``colour`` is info, success, warning, danger or empty."""
    shown = {"text": text, "variant": colour, "size": "md", "label_title": tooltip}
    return render_to_string("unfold/helpers/label.html", shown)


def protection(scheme: str, caveat: str) -> str:
    """Return the scheme that protects readings, marked with what it lacks of protection from end to end."""
    return label(f"{scheme}: {caveat}", "warning") if caveat else scheme


def kind_label(kind: FailureKind | str) -> SafeString:
    """Return a kind of failure in words, in the colour of its severity; the tooltip names its verdict."""
    known = FailureKind(kind)
    return label(known.label, SEVERITY_COLOURS[known.severity], known.value)


def clipped(text: Any) -> SafeString:
    """Return a text that a narrow column may cut off; the tooltip holds all of it."""
    return format_html('<span class="console-clip" title="{}">{}</span>', text, text)


def wrapped(text: Any) -> SafeString:
    """Return a text that may take several lines of its column."""
    return format_html('<span class="console-wrap">{}</span>', text)


def _from_utc(text: str) -> SafeString | str:
    try:
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return f"{text} UTC"
    form = "%Y-%m-%d %H:%M:%S" if text.count(":") > 1 else "%Y-%m-%d %H:%M"
    return _time(at, f"{timezone.localtime(at):{form}}")


def _time(at: datetime, text: str) -> SafeString:
    local = timezone.localtime(at)
    exact = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


def _scaled(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    divisor, prefix = next((d, p) for limit, d, p in PREFIXES if abs(value) < limit)
    if divisor == 1:
        return f"{value:,.0f} {unit}"
    return f"{value / divisor:,.1f} {prefix}{unit}"
