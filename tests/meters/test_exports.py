"""CSV that a spreadsheet opens: no text in it is a formula, and every number is one."""

import csv
import io
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.readings import export

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("at", pa.timestamp("us", tz="UTC"))])
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def written(text: str | None, number: int = -5) -> list[str]:
    octets = b"".join(export.stream_csv(SCHEMA, [[(text, number, AT)]]))
    _, row = csv.reader(io.StringIO(octets.decode(), newline=""))
    return row


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+A1",
        "-A1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\x1f@1",
        "\u2003=1",
        "\u200b=1",
        "=cmd|' /C calc'!A0",
        "\uff1d1",
    ],
)
def test_a_text_is_no_formula(text: str) -> None:
    assert written(text)[0] == f"'{text}"


@pytest.mark.parametrize("text", ["meter 7", "1-0:1.8.0", "", "a=b", "'=1", "-5", "-0.125", "12.50", "+3"])
def test_what_is_none_stays(text: str) -> None:
    assert written(text)[:2] == [text, "-5"]


def test_nothing_stays_nothing() -> None:
    assert written(None)[0] == ""


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_no_text_begins_as_a_formula_does(text: str) -> None:
    first = written(text)[0].lstrip()[:1]
    assert first not in {"=", "@"}
    assert first not in {"+", "-"} or written(text)[0] == text


def test_an_empty_batch_is_a_file_without_rows() -> None:
    assert b"".join(export.stream_csv(SCHEMA, [[]])).count(b"\n") == 1
