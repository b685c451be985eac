"""Rows of a lot come out of their pack as they went in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concentrators.feed.packed import pack, unpack
from meters.readings.copy_format import rows_of
from meters.values import NewValue, Value

_VALUES = st.tuples(
    st.integers(1, 2**31 - 1),  # meter
    st.builds(
        Value,
        captured_s=st.integers(0, 2**38),
        register_id=st.integers(1, 2**15 - 1),
        value=st.integers(-(2**63), 2**63 - 1),
        interval_minutes=st.integers(0, 1440),
        is_event=st.just(False),
    ),
    st.integers(1, 2**63 - 1),  # uplink
    st.none() | st.integers(0, 2**15 - 1),  # scheme
)


def said(values: list[NewValue], former: list[int | None]) -> list[tuple[int | None, ...]]:
    return [
        (of.captured_s * 1_000_000, meter, of.register_id, of.value, uplink, of.interval_minutes, scheme, before)
        for (meter, of, uplink, scheme), before in zip(values, former, strict=True)
    ]


def unpacked(octets: bytes, rows: int) -> list[tuple[int | None, ...]]:
    return list(zip(*(column.to_pylist() for column in unpack(octets, rows)), strict=True))


@settings(max_examples=40)
@given(st.lists(_VALUES, min_size=1, max_size=20), st.data())
def test_rows_come_out_as_they_went_in(values: list[NewValue], data: st.DataObject) -> None:
    nothing: list[int | None] = [None] * len(values)
    given_rows = [rows_of([one])[0] for one in values]
    assert unpacked(pack(given_rows), len(values)) == said(values, nothing)
    former = data.draw(st.lists(st.integers(1, 1440), min_size=len(values), max_size=len(values)))
    assert unpacked(pack(given_rows, former), len(values)) == said(values, list(former))


def test_what_is_no_pack_is_refused() -> None:
    good = pack(rows_of([(1, Value(0, 1, 1, 30, False), 1, None)] * 3))
    for octets, rows in ((b"", 3), (good[:-1], 3), (b"\0" * 40, 3), (good, 2), (good, 0)):
        with pytest.raises(ValueError, match="not a pack"):
            unpack(octets, rows)


def test_three_octets_a_row() -> None:
    """As meters say it: one uplink, few times, values that differ. The goal of docs/adr is stated in octets a row."""
    values: list[NewValue] = [
        (5_000 + meter, Value(1_700_000_000 + 1800 * at, 5, (meter * 7919 + at * 104_729) % 1_000, 30, False), 77, None)
        for meter in range(500)
        for at in range(5)
    ]
    assert len(pack(rows_of(values))) < 4 * len(values)
