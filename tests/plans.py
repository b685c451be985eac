"""Plans of PostgreSQL, for tests that hold by which way a statement goes instead of how long it takes."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection

# With few rows PostgreSQL would read them all and sort them: it is told that this is dear.
_DEAR = ("enable_seqscan", "enable_sort", "enable_bitmapscan", "enable_mergejoin", "enable_hashjoin")


def plan_of(statement: str, params: Sequence[Any], *dear: str, is_run: bool = False) -> list[dict[str, Any]]:
    """The nodes of a statement's plan, the topmost first; with ``is_run`` what each of them did, too.

    ``dear`` are the settings of the planner to be turned off; all of _DEAR where none is named.
    """
    with connection.cursor() as cursor:
        for setting in dear or _DEAR:
            cursor.execute(f"SET LOCAL {setting} = off")
        how = "FORMAT JSON, ANALYZE" if is_run else "FORMAT JSON"
        cursor.execute(f"EXPLAIN ({how}) {statement}", params)
        (plans,) = cursor.fetchone()
        for setting in dear or _DEAR:
            cursor.execute(f"SET LOCAL {setting} = on")
    return list(_nodes(plans[0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
