"""WHERE clauses of pages ordered by a key: the filters, and the rows after the last row of the previous page.

A condition is an SQL text with its value; None means that the condition does not apply. Values never become part of the
text.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ami_headend.core.sql import int_array

Condition = tuple[str, Any]


def one_of(column: str, ids: Iterable[int] | None, kind: str = "int") -> Condition:
    """The column is one of these ids; None does not restrict it."""
    return f"{column} = ANY(%s::{kind}[])", None if ids is None else int_array(ids)


def after(key: Sequence[str], last: tuple[Any, ...] | None, newest_first: bool = False) -> Condition:
    """Rows that follow ``last`` in the order of the key; None for the first page."""
    return f"({', '.join(key)}) {'<' if newest_first else '>'} ({', '.join(['%s'] * len(key))})", last


def given(*conditions: Condition) -> tuple[list[str], list[Any]]:
    """Return the texts of the conditions that have a value, and all values in their order."""
    texts: list[str] = []
    params: list[Any] = []
    for text, value in conditions:
        if value is not None:
            texts.append(text)
            params += value if isinstance(value, tuple) else [value]
    return texts, params
