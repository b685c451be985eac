"""Files of the archive: what is written comes back, sums are exact, and no other order is taken."""

import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.archive import layout
from meters.archive.layout import ORDER, SCHEMA, OrderError, Sums

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Rows = dict[tuple[int, int, int], tuple[int, int, int, int | None]]
INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.dictionaries(
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 2**37)),
    st.tuples(INT64, INT64, st.integers(0, 1440), st.none() | st.integers(1, 9)),
    max_size=12,
)


def batch(rows: Rows) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "captured_at": EPOCH + timedelta(seconds=second),
                "meter_id": meter,
                "register_id": register,
                "value": value,
                "uplink_id": uplink,
                "interval_minutes": minutes,
                "scheme": scheme,
            }
            for (meter, register, second), (value, uplink, minutes, scheme) in rows.items()
        ],
        schema=SCHEMA,
    )


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 5))
def test_what_is_written_comes_back_and_adds_up(rows: Rows, size: int) -> None:
    rows = dict(sorted(rows.items()))
    whole = batch(rows)
    file = io.BytesIO()
    sums = layout.write(file, (whole.slice(at, size) for at in range(0, whole.num_rows, size)))
    file.seek(0)
    found = list(layout.read(file))
    assert pa.Table.from_batches(found, SCHEMA).equals(pa.Table.from_batches([whole], SCHEMA))
    expected: dict[int, Sums] = {}
    for (meter, register, second), (value, uplink, minutes, scheme) in rows.items():
        one = Sums(1, second * 1_000_000, meter, value, uplink, minutes, scheme or 0, int(scheme is not None))
        expected[register] = expected.get(register, layout.NOTHING).plus(one)
    assert sums == expected


KEYS = [(1, 1, 60), (1, 2, 0), (2, 1, 0)]


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1)])
@pytest.mark.parametrize("size", [1, 3])
def test_rows_that_are_not_in_order_or_twice_there_are_refused(order: tuple[int, ...], size: int) -> None:
    value = (5, 1, 0, None)
    whole = pa.Table.from_batches([batch({KEYS[at]: value}) for at in order]).combine_chunks().to_batches()[0]
    with pytest.raises(OrderError):
        layout.write(io.BytesIO(), (whole.slice(at, size) for at in range(0, 3, size)))
    assert ORDER == ("meter_id", "register_id", "captured_at")
