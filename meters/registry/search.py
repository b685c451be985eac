"""Searches meters and places: case-insensitive, by the last digits of a serial number, by words of an address.

Every search uses an index with the same expression as here (``INDEXES`` of the first migration of the app).
"""

import re
from contextlib import suppress
from typing import Any

from django.db.models import BooleanField, Func, Q
from django.db.models.expressions import RawSQL

from ami_headend.core.names import tidy
from meters.registry.lookup import RegistryError, parse_system_title

Condition = tuple[str, list[Any]]

LAST_DIGITS_MIN = 3  # fewer characters match too many meters
_ALNUM = re.compile(r"[^\W_]")
# The words of a text: letters and digits in a row. In an index and in a query alike.
_WORDS = "regexp_replace(lower({text}), '[^[:alnum:]]+', ' ', 'g')"
METER_WORDS = "name || ' ' || CASE WHEN serial_number ~ '[^[:alnum:]]' THEN serial_number ELSE '' END"
PLACE_WORDS = "name || ' ' || address"
_VECTOR = "to_tsvector('simple', {words})"
_NONE = "ARRAY[]::int[]"
_QUERY = """to_tsquery('simple', nullif(regexp_replace(trim({words}), ' ', ':* & ', 'g'), '') || ':*')"""


def meter_condition(
    term: str, table: str = "meters_meter", limit: int | None = None, after: str | None = None
) -> Condition:
    """Return SQL that is true for meters that a term means (``meter_ids``), and its parameters."""
    ids, params = meter_ids(term, limit, after)
    return f"{table}.id = ANY({ids})", params


def meter_ids(term: str, limit: int | None = None, after: str | None = None) -> Condition:
    """Return SQL for the ids of the meters that a term means, as an array, and its parameters.

    A term is the beginning or end of a serial number, the beginning of words of a name or of a serial number with
    separators, or a system title. ``limit`` bounds how many ids each of these finds, the first by serial number after
    ``after``, if given.
    """
    term = term.strip()
    if "\0" in term or not _ALNUM.search(term):
        return _NONE, []
    found = [_branch("lower(serial_number) LIKE %s", f"{_like(term.lower())}%", limit, after)]
    if len(term) >= LAST_DIGITS_MIN:
        end = f"{_like(term.lower()[::-1])}%"
        found.append(_branch("reverse(lower(serial_number)) LIKE %s", end, limit, after, is_fenced=True))
    found.append(_branch(_matches(METER_WORDS), term, limit, after, is_fenced=True))
    with suppress(RegistryError):
        found.append(("SELECT id FROM meters_meter WHERE system_title = %s", [parse_system_title(term)]))
    return _array(found)


def place_condition(term: str, table: str = "meters_place", limit: int | None = None) -> Condition:
    """Return SQL that is true for places that a term means (``place_ids``), and its parameters."""
    ids, params = place_ids(term, limit)
    return f"{table}.id = ANY({ids})", params


def place_ids(term: str, limit: int | None = None) -> Condition:
    """Return SQL for the ids of the places that a term means, as an array, and its parameters.

    A term is the beginning of words of name and address, or a customer reference. ``limit`` bounds how many.
    """
    term = term.strip()
    if "\0" in term or not _ALNUM.search(term):
        return _NONE, []
    words = f"SELECT id FROM meters_place WHERE {_matches(PLACE_WORDS)}"
    customers = "SELECT id FROM meters_place WHERE customer_reference = %s"
    found: list[Condition] = [(words, [term]), (customers, [tidy(term)])]
    if limit is not None:
        found = [
            (f"(WITH w AS MATERIALIZED ({one}) SELECT id FROM w LIMIT %s)", [*values, limit]) for one, values in found
        ]
    return _array(found)


def _branch(condition: str, value: str, limit: int | None, after: str | None, *, is_fenced: bool = False) -> Condition:
    """Return SQL for the ids that one index finds.

    It is materialized if PostgreSQL overestimates the matches (for words, a fiftieth of all rows), because else it
    would scan all meters until it has found enough. Rows are still taken one by one.
    """
    found = f"SELECT id, serial_number FROM meters_meter WHERE {condition}"
    if limit is None:
        return f"SELECT id FROM ({found}) AS f", [value]
    place, values = ("", []) if after is None else ("WHERE serial_number > %s ORDER BY serial_number", [after])
    if is_fenced or after is None:
        return f"(WITH w AS MATERIALIZED ({found}) SELECT id FROM w {place} LIMIT %s)", [value, *values, limit]
    return f"(SELECT id FROM ({found}) AS f {place} LIMIT %s)", [value, *values, limit]


def _array(found: list[Condition]) -> Condition:
    statements = " UNION ALL ".join(statement for statement, _ in found)
    return f"ARRAY({statements})", [value for _, values in found for value in values]


def as_q(condition: Condition) -> Q:
    """Return a condition for a QuerySet of the model itself."""
    return Q(RawSQL(*condition, output_field=BooleanField()))  # noqa: S611 - values are parameters


class _IsAmong(Func):
    """True if a column is in an array. IN would read the whole table if combined with OR."""

    template = "%(expressions)s)"
    arg_joiner = " = ANY("
    output_field = BooleanField()


def of_meters(term: str) -> Q:
    """Return a condition for rows with a ``meter``; it uses an index of that column."""
    return Q(_IsAmong("meter_id", RawSQL(*meter_ids(term))))  # noqa: S611 - values are parameters


def of_places(term: str) -> Q:
    """Return a condition for rows with a ``place``; it uses an index of that column."""
    return Q(_IsAmong("place_id", RawSQL(*place_ids(term))))  # noqa: S611 - values are parameters


def _matches(text: str) -> str:
    words = _VECTOR.format(words=_WORDS.format(text=text))
    return f"{words} @@ {_QUERY.format(words=_WORDS.format(text='%s::text'))}"


def _like(text: str) -> str:
    return re.sub(r"([%_\\])", r"\\\1", text)
