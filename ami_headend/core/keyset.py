"""WHERE of a page by key: what was asked for, and the rows after the last one of the page before.

A condition is a text with its value; without a value nothing was asked. Values never become part of the text.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ami_headend.core.sql import int_array

Condition = tuple[str, Any]


def one_of(column: str, ids: Iterable[int] | None, kind: str = "int") -> Condition:
    """A column is one of these ids; None is any."""
    return f"{column} = ANY(%s::{kind}[])", None if ids is None else int_array(ids)


def after(key: Sequence[str], last: tuple[Any, ...] | None, newest_first: bool = False) -> Condition:
    """What follows a row in the order of its key; None is the first page."""
    return f"({', '.join(key)}) {'<' if newest_first else '>'} ({', '.join(['%s'] * len(key))})", last


def given(*conditions: Condition) -> tuple[list[str], list[Any]]:
    """The conditions that have a value, and all values in their order."""
    texts: list[str] = []
    params: list[Any] = []
    for text, value in conditions:
        if value is not None:
            texts.append(text)
            params += value if isinstance(value, tuple) else [value]
    return texts, params
