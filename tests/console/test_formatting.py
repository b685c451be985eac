"""How figures are written."""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from ami_headend.console import formatting
from ami_headend.web.tables import Column, columns_of

NOW = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")],
)
def test_ago(seconds: int, text: str) -> None:
    assert f">{text} ago</time>" in formatting.ago(NOW - timedelta(seconds=seconds), NOW)
    assert formatting.ago(None, NOW) == "never"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 Wh"),
        (950, "950 Wh"),
        (9_999, "9,999 Wh"),
        (12_345, "12.3 kWh"),
        (9_999_999, "10,000.0 kWh"),
        (1_234_567_890, "1,234.6 MWh"),
        (5 * 10**13, "50,000.0 GWh"),
        (-12_345, "-12.3 kWh"),
    ],
)
def test_energies_take_the_unit_that_suits(value: float | None, text: str) -> None:
    assert formatting.energy(value) == text
    assert formatting.power(value) == text.replace("Wh", "W")


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0.0 %"),
        (1, 100_000, "< 0.1 %"),
        (99_999, 100_000, "99.9 %"),
        (100, 100, "100.0 %"),
        (2, 3, "66.7 %"),
        (0, 0, "-"),
        (None, 5, "-"),
        (1, None, "-"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(part: Any, whole: Any, text: str) -> None:
    assert formatting.percent(part, whole) == text


def test_times_stand_in_the_zone_over_daylight_saving_changes() -> None:
    """On 25 October 2026 Berlin has 02:30 twice: the tooltips tell them apart."""
    before, after = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    with timezone.override(ZoneInfo("Europe/Berlin")):
        assert 'title="2026-10-25 02:30:00 CEST">2026-10-25 02:30:00<' in formatting.moment(before)
        assert 'title="2026-10-25 02:30:00 CET">2026-10-25 02:30:00<' in formatting.moment(after)
        assert formatting.zone_name(before) == "Europe/Berlin (UTC+02:00)"
        assert formatting.zone_name(after) == "Europe/Berlin (UTC+01:00)"
    assert formatting.zone_name(after) == "UTC"
    assert formatting.moment(None) == "-"


def test_what_is_shown_is_escaped() -> None:
    assert "<b>" not in formatting.link("/", "<b>") + formatting.label("<b>") + formatting.clipped("<b>")


def test_times_in_a_text_are_put_into_the_viewers_zone() -> None:
    with timezone.override(ZoneInfo("Europe/Berlin")):
        text = formatting.in_zone("<b> 2026-07-01 22:30 UTC to 2026-11-24 06:30:01 UTC, not 2026-13-01 00:00 UTC")
        assert text.startswith("&lt;b&gt; <time ")
        assert ">2026-07-02 00:30</time> to <time " in text
        assert ">2026-11-24 07:30:01</time>, not 2026-13-01 00:00 UTC" in text
        assert formatting.in_zone("no time at all") == "no time at all"


def test_titles_say_what_a_column_is() -> None:
    assert columns_of("meter", "#open", "-name", "-#interval", "") == [
        Column("meter"),
        Column("open", is_number=True),
        Column("name", is_minor=True),
        Column("interval", is_number=True, is_minor=True),
        Column(""),
    ]


def test_no_markup_goes_through_an_f_string() -> None:
    """An f-string makes text of it, which the page then shows with its angle brackets; format_html keeps it."""
    markup = {
        name
        for name, function in vars(formatting).items()
        if callable(function)
        and getattr(function, "__module__", "") == formatting.__name__
        and "SafeString" in str(get_type_hints(function).get("return", ""))
    }
    assert {"ago", "link", "label"} <= markup
    found = [
        f"{path}:{call.lineno} {call.func.id}"
        for folder in ("ami_headend", "concentrators", "keyvault", "meters")
        for path in Path(folder).rglob("*.py")
        for text in ast.walk(ast.parse(path.read_text()))
        if isinstance(text, ast.JoinedStr)
        for call in ast.walk(text)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in markup
    ]
    assert found == []
