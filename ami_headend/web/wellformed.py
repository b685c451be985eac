"""Refuses requests that no door could answer, with a reason: NULs, impossible row numbers, unknown parameters.

An unknown parameter must not be ignored: its sender would believe that the list is filtered.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from ami_headend.web import problems

_API = "/api/v1/"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_DIGITS = 18  # a number of this many digits always fits a bigint
_EVERYWHERE = frozenset({"format"})  # of the API: which renderer


class WellFormed:
    """Middleware: 404 for a value that no row can have; 400 for a text with NUL or an unknown parameter."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Any, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> HttpResponse | None:
        if any(_names_no_row(value) for value in (*args, *kwargs.values())):
            raise Http404("No row can have such a number.")
        faulty = [name for name, values in request.GET.lists() if "\0" in name or any("\0" in one for one in values)]
        if not faulty and _is_form(request):
            faulty = [name for name, values in request.POST.lists() if any("\0" in str(one) for one in values)]
        if faulty:
            return _refused(request, faulty, "holds a NUL character, which no text may contain")
        if request.path_info.startswith(_API) and not hasattr(getattr(view, "cls", None), "query_class"):
            unknown = sorted(set(request.GET) - _EVERYWHERE)
            if unknown:
                return _refused(request, unknown, "no such parameter: this address takes none")
        return None


def _names_no_row(value: Any) -> bool:
    if isinstance(value, int):
        return not -(2**63) <= value < 2**63
    text = str(value)
    return "\0" in text or (text.isdecimal() and len(text) > _DIGITS)


def _is_form(request: HttpRequest) -> bool:
    """Whether the request is a form of a page; doors for programs read their bodies themselves."""
    return (
        request.method == "POST"
        and request.content_type in _FORMS
        and not problems.asked_by_a_program(request)
        and request.user.is_authenticated
    )


def _refused(request: HttpRequest, names: list[str], why: str) -> HttpResponse:
    shown = [name.replace("\0", "\\0")[:80] for name in names]
    if problems.asked_by_a_program(request):
        errors = [{"name": name, "detail": why} for name in shown]
        return problems.problem(request, 400, "; ".join(f"{name}: {why}" for name in shown), errors)
    raise BadRequest(f"{', '.join(shown)}: {why}.")
