"""Errors of the API as problem details (RFC 9457), and the rights that reading needs.

``type`` is always ``about:blank``: the status says what kind of problem it is, ``detail`` what was wrong this time, and
``errors`` names each parameter or field at fault. ``instance`` is the requested path.
"""

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    TooManyFieldsSent,
    TooManyFilesSent,
)
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.urls import reverse
from django.views import defaults
from rest_framework import exceptions
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from ami_headend.core.database_errors import close_spoilt_connections, is_gone, is_lost_race, trouble_of
from ami_headend.core.step_up import StepUpNeededError
from ami_headend.web import group_limits, scopes
from ami_headend.web.scopes import Program
from keyvault.audit.chain import AuditError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from meters.archive.files import ArchiveError

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
MACHINES_PREFIXES = ("/api/", "/health/", "/metrics")
DATABASE_RETRY_AFTER_S = 5
_NAMED = 20  # values of a list that one text is true of


class ViewPermission(DjangoModelPermissions):
    """Reading needs a permission too: ``view_`` of the view's model. Anonymous callers get 401.

    A view's ``rights`` may name other permissions by method; an empty entry if the view itself checks them, because
    they depend on the body. A program's token needs the scope of the address first (``ami_headend.web.scopes``).
    """

    perms_map = {
        **DjangoModelPermissions.perms_map,
        **{method: ["%(app_label)s.view_%(model_name)s"] for method in ("GET", "HEAD", "OPTIONS")},
    }

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.user, Program):
            scopes.check(request, request.user)
            group_limits.check(request, view, request.user)
        rights: Mapping[str, Sequence[str]] = getattr(view, "rights", {})
        named = rights.get(request.method or "")
        if named is None:
            return super().has_permission(request, view)
        return request.user.is_authenticated and request.user.has_perms(named)


class Methods(BaseMetadata):
    """The answer to OPTIONS: the methods of an address, always in JSON. /api/schema/ describes their parameters."""

    def determine_metadata(self, request: Request, view: Any) -> dict[str, list[str]]:
        # Not with the view's renderers: some write only frames or CSV.
        request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return {"methods": view.allowed_methods}


class Negotiation(DefaultContentNegotiation):
    """Chooses the format of an answer. An unknown name in ``?format=`` is the caller's mistake (400, not 404).

    If no accepted format is available (a browser that asks for HTML), the default format is sent: better than 406, and
    RFC 9110 section 12.4.1 leaves the choice.
    """

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        try:
            return super().select_renderer(request, renderers, format_suffix)
        except exceptions.NotAcceptable:
            return renderers[0], renderers[0].media_type

    def filter_renderers(self, renderers: Any, format: str) -> Any:  # noqa: A002 - the name DRF calls it by
        found = [renderer for renderer in renderers if renderer.format == format]
        if not found:
            known = ", ".join(renderer.format for renderer in renderers)
            raise exceptions.ValidationError({"format": [f"{format!r} is not one of {known}"]})
        return found


class ShallowJSONParser(JSONParser):
    """Parses JSON; nesting beyond Python's recursion limit is the caller's mistake (400), not a fault of ours."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except RecursionError:
            raise exceptions.ParseError("JSON parse error - it is nested too deeply") from None


class KeysUnavailable(exceptions.APIException):
    """The master or fleet key cannot be used, or the act cannot be audited. Nothing was done; an administrator must
    act.
    """

    status_code = 503
    default_detail = "Keys cannot be used now; nothing was done. Try again later."
    wait = 60  # becomes Retry-After


def problem(
    request: HttpRequest,
    status: int,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JsonResponse:
    """Return the answer for one problem; ``members`` are of this kind of problem alone (RFC 9457, section 3.2)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
    }
    if errors:
        body["errors"] = errors
    body |= members or {}
    # Not DRF's Response, which would use the view's renderer, perhaps CSV.
    return JsonResponse(body, status=status, headers=headers, content_type=CONTENT_TYPE)


def step_up_needed(request: HttpRequest) -> HttpResponse:
    """Return the problem that an act needs a fresh proof, and say where to give it."""
    where = request.build_absolute_uri(reverse("step-up"))
    text = (
        "This needs a fresh proof that it is you. Nothing was done: confirm at {} with this session, and send it again."
    )
    return problem(request, 403, text.format(where))


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """DRF's hook: return the problem for an exception, or None for a fault of ours (handler500).

    The errors in a view's ``refusals`` are mistakes of the caller: 400.
    """
    request = context["request"]
    if answer := _of_storage(request, exc):
        return answer
    if isinstance(exc, StepUpNeededError):
        return step_up_needed(request)
    if isinstance(exc, getattr(context["view"], "refusals", ())):
        exc = exceptions.ValidationError(str(exc))
    elif isinstance(exc, MasterKeyError | AuditError | ProvisioningError):
        logger.warning("keys cannot be used for %s %s: %s", request.method, request.path, exc)
        exc = KeysUnavailable()
    elif isinstance(exc, Http404):
        exc = exceptions.NotFound(*exc.args)
    elif isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied(*exc.args)
    if not isinstance(exc, exceptions.APIException):
        return None

    status, headers = exc.status_code, {}
    if challenge := _challenge(request, exc):
        headers["WWW-Authenticate"] = challenge
        if not isinstance(exc, exceptions.PermissionDenied):
            status = 401
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    if isinstance(exc.detail, str):
        return problem(request, status, str(exc.detail), headers=headers)
    errors = [{"name": name, "detail": text} for name, text in _flat(exc.detail)]
    detail = "; ".join(f"{error['name']}: {error['detail']}" if error["name"] else error["detail"] for error in errors)
    return problem(request, status, detail, [error for error in errors if error["name"]], headers)


def _challenge(request: Request, exc: exceptions.APIException) -> str:
    """Return how to get in (RFC 9110 section 11.6.1): as the exception itself says, or by any authenticator.

    DRF asks only its first authenticator, and answers 403 if that one has no challenge (sessions).
    """
    if challenge := getattr(exc, "challenge", ""):
        return str(challenge)
    if not isinstance(exc, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return ""
    authenticators: Sequence[Any] = request.authenticators or ()
    challenges = [authenticator.authenticate_header(request) for authenticator in authenticators]
    return ", ".join(filter(None, challenges))


def _of_storage(request: HttpRequest | Request, error: BaseException | None) -> HttpResponse | None:
    """Return the answer for an error of database or archive; None for others, and where the statement is at fault."""
    if error is not None and (trouble := trouble_of(error)):
        logger.error("the database %s, for %s %s", trouble.value, request.method, request.path, exc_info=error)
        close_spoilt_connections(trouble)
        return _unavailable(request, f"The database {trouble.value}; try again later.")
    if isinstance(error, ArchiveError):
        logger.error("the archive cannot be used, for %s %s: %s", request.method, request.path, error)
        return _unavailable(request, "Readings of that time are archived, and cannot be read now; try again later.")
    return _conflict(request, error) if is_lost_race(error) else None


def _unavailable(request: HttpRequest | Request, detail: str) -> HttpResponse:
    """Return 503: the caller did nothing wrong and may retry."""
    retry = {"Retry-After": str(DATABASE_RETRY_AFTER_S)}
    if asked_by_a_program(request):
        return problem(request, 503, detail, headers=retry)
    page = loader.get_template("503.html").render({"detail": detail})
    return HttpResponse(page, status=503, headers=retry)


def _conflict(request: HttpRequest | Request, error: BaseException | None) -> HttpResponse:
    """Return 409: what this request was to make was made, or its subject removed, after it was looked at."""
    logger.warning("a race was lost, for %s %s", request.method, request.path, exc_info=error)
    detail = "Somebody else changed the same thing at the same moment. Look at it again, then repeat what is missing."
    if is_gone(error):
        detail = "What this is about was deleted meanwhile. Nothing was changed."
    if asked_by_a_program(request):
        return problem(request, 409, detail)
    page = loader.get_template("400.html").render({"heading": "Somebody else was first", "why": detail})
    return HttpResponse(page, status=409)


def _flat(detail: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield DRF's nested error detail as (field, message), with names such as ``meters.3.serial_number``."""
    if isinstance(detail, dict):
        of_values = {key: value for key, value in detail.items() if isinstance(key, int) and isinstance(value, list)}
        yield from _of_a_list(of_values, name)
        for key, value in detail.items():
            if key not in of_values:
                part = "" if key == "non_field_errors" else str(key)
                yield from _flat(value, ".".join(filter(None, (name, part))))
    elif isinstance(detail, list | tuple):
        for index, value in enumerate(detail):
            yield from _flat(value, f"{name}.{index}" if isinstance(value, dict) else name)
    else:
        yield name, str(detail)


def _of_a_list(wrong: Mapping[int, Sequence[Any]], name: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with plain values of a list, each text once; ``wrong`` has the texts by index.

    Where one text is true of several values, it says which they are, counted from 0.
    """
    indices: dict[str, list[int]] = {}
    for index, texts in wrong.items():
        for text in texts:
            indices.setdefault(str(text), []).append(index)
    for text, at in indices.items():
        more = f" and {len(at) - _NAMED} more" if len(at) > _NAMED else ""
        where = f" (values {', '.join(map(str, at[:_NAMED]))}{more})" if len(at) > 1 else ""
        yield name, text + where


_SCHEMA = {
    "type": "object",
    "description": "Problem details (RFC 9457)",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "description": "about:blank: the status says what kind of problem it is"},
        "title": {"type": "string", "description": "the phrase of the status"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "the requested path"},
        "errors": {
            "type": "array",
            "description": "each parameter or field at fault",
            "items": {
                "type": "object",
                "required": ["name", "detail"],
                "properties": {"name": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


def document_problems(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's hook: every operation may end in a problem."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _SCHEMA
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = {"description": "Any error", "content": content}
    return result


# --- outside of DRF's views: unknown paths, hosts that are not allowed, faults ----------------------


def asked_by_a_program(request: HttpRequest | Request) -> bool:
    """Whether the address is one for programs, which get problem details; people get a page."""
    return request.path_info.startswith(MACHINES_PREFIXES)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 400 with a reason, which Django's own page lacks. Texts of other exceptions may hold input and are not
    shown.
    """
    why = str(exception) if isinstance(exception, BadRequest) else _too_much(exception)
    if asked_by_a_program(request):
        return problem(request, 400, why or "The request could not be understood.")
    return HttpResponse(loader.get_template("400.html").render({"why": why}), status=400)


def _too_much(exception: Exception) -> str:
    """Return the reason if Django refused to read so much; an empty text for other exceptions."""
    if isinstance(exception, TooManyFieldsSent):
        most = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
        return f"More than {most:,} fields were sent; nothing was done. Choose fewer, and do the rest afterwards."
    if isinstance(exception, TooManyFilesSent):
        return f"More than {settings.DATA_UPLOAD_MAX_NUMBER_FILES:,} files were sent; nothing was done."
    if isinstance(exception, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return f"More than {most:,} octets were sent; nothing was done."
    return ""


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if asked_by_a_program(request):
        return problem(request, 403, "You may not do this.")
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if asked_by_a_program(request):
        return problem(request, 404, f"There is nothing at {request.path}; /api/docs/ lists all addresses.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer an exception that nobody caught: 503 if the database is the cause, else 500."""
    error = sys.exception()
    if answer := _of_storage(request, error):
        return answer
    if asked_by_a_program(request):
        return problem(request, 500, "The head-end failed on this request; its log says why.")
    return defaults.server_error(request)
