"""Exports of lists: what the filters show, as CSV or Parquet, streamed, with a bound, and audited if it is personal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from keyvault.audit import chain
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.readings import export
from meters.readings.queries import SelectionError

FORMATS = ("csv", "parquet")
SUM = pa.decimal128(38, 0)  # of values of 64 bits each
ROWS_MAX = 1_000_000
BATCH = 5_000


class ListExport(NamedTuple):
    """The rows that filters leave, in batches that are read as they are sent: named tuples of one type, or of a schema.

    ``count`` returns how many there are, but no more than it is asked for. ``is_personal``: they tell of households.
    """

    form: type[Any] | pa.Schema
    batches: Iterable[Sequence[Any]]
    count: Callable[[int], int]
    is_personal: bool = False


def paged(query: Callable[[Any], tuple[Sequence[Any], Any]], first: Any = None) -> Iterator[Sequence[Any]]:
    """Yield the pages of a query that takes a key and returns rows with the key of the next page."""
    key = first
    while True:
        rows, key = query(key)
        if rows:
            yield rows
        if key is None:
            return


def answer(
    request: HttpRequest, name: str, found: ListExport, back: str, written: str | None = None
) -> HttpResponseBase:
    """Return the rows as a file to save, in the form ``written`` (else that of the address).

    Or the way back to the list, with a message that says why not.
    """
    written = request.GET.get("export") if written is None else written
    if written not in FORMATS:
        messages.error(request, f"Nothing was exported: the format is one of {', '.join(FORMATS)}.")
        return HttpResponseRedirect(back)
    try:
        rows = found.count(ROWS_MAX + 1)
    except SelectionError as error:
        messages.error(request, f"Nothing was exported: {error}.")
        return HttpResponseRedirect(back)
    if rows > ROWS_MAX:
        said = (
            f"Nothing was exported: more than {ROWS_MAX:,} rows match. Narrow the filters, or use the REST interface."
        )
        messages.error(request, said)
        return HttpResponseRedirect(back)
    if found.is_personal:
        query = request.GET.copy()
        query.pop("export", None)
        subject = {"list": name, "filters": query.urlencode()[:500], "rows": rows}
        try:
            chain.record(web_actor(request), "list.export", subject)
        except (AuditError, MasterKeyError):
            messages.error(request, "Nothing was exported: it cannot be audited while the master key cannot be used.")
            return HttpResponseRedirect(back)
    schema = found.form if isinstance(found.form, pa.Schema) else export.schema_of(found.form)
    return export.file_answer(written, name, schema, map(list, found.batches))
