"""One record of the log is one line, whatever names and errors of others hold."""

import logging
import sys
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from ami_headend.core.text import one_line
from ami_headend.logs import LineFormatter

FORGED = "2026-11-29 03:00:00,000 INFO keyvault.audit.chain: audit head 7:00 (key.export by ann)"


def written(message: str, *args: object) -> list[str]:
    logging_: Any = settings.LOGGING
    made = logging_["formatters"]["line"]
    formatter: logging.Formatter = made["()"](made["format"])
    return formatter.format(logging.LogRecord("a.b", logging.WARNING, __file__, 1, message, args, None)).splitlines()


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_name_with_a_line_break_begins_no_line(line_break: str) -> None:
    (line,) = written("%s is given up", f"duty{line_break}{FORGED}")
    assert "WARNING a.b: duty\\" in line
    assert FORGED in line


def test_a_terminal_is_not_turned_around() -> None:
    (line,) = written("channel %s", "duty\x1b[2J\u202egnp.exe")
    assert line.endswith("channel duty\\x1b[2J\\u202egnp.exe")


def test_a_traceback_follows_behind_a_bar_even_where_another_handler_wrote_it_before() -> None:
    try:
        raise ValueError(f"no channel\n{FORGED}")
    except ValueError:
        caught = sys.exc_info()
    record = logging.LogRecord("a.b", logging.ERROR, __file__, 1, "it failed", (), caught)
    record.exc_text = FORGED  # as a formatter of somebody else leaves it
    first, *more = LineFormatter("%(message)s").format(record).splitlines()
    assert first == "it failed"
    assert more[0] == "    | Traceback (most recent call last):"
    assert all(line.startswith("    | ") for line in more)
    assert more[-1] == f"    | {FORGED}"


@given(st.text())
def test_whatever_the_text_it_is_one_line_and_what_prints_stays(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert line == text or not text.isprintable()
