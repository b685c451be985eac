"""Incoming requests, and refusals by the server itself as problem details (RFC 9457)."""

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, Error

from ami_headend.server.request_classes import ANONYMOUS_MAX_OCTETS, Pool, RequestClass, classify

_CHUNK_LINE_MAX_OCTETS = 1024  # size and extensions of one chunk
_TRAILER_MAX_OCTETS = 8 * 1024
_UNKNOWN = RequestClass(Pool.LIVE, ANONYMOUS_MAX_OCTETS)  # for input that is not a request: it is refused


class RefusedRequestError(Error):  # type: ignore[misc]
    """An answer of the server itself, without the application."""

    def __init__(self, status: HTTPStatus, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.code, self.reason, self.retry_after_s = status.value, status.phrase, retry_after_s


class Limits(Adjustments):  # type: ignore[misc]
    """waitress' own adjustments, and ours."""

    uplink_max_octets = 4 * 1024 * 1024


class CheckedRequest(HTTPRequestParser):  # type: ignore[misc]
    """One request. An ambiguous one is refused, so that no proxy can read it differently.

    waitress drops headers with an underscore in their names: for WSGI, ``X_Forwarded_For`` would be the same as the
    header that the proxy sets.
    """

    request_class = _UNKNOWN
    error: Error | None

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError(f"The address cannot be read: {error}") from None
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("A body needs Content-Length or, in HTTP/1.1, Transfer-Encoding, but not both.")
        path = "/" + self.path.lstrip("/")
        prefix = self.adj.url_prefix
        if prefix and path.startswith(f"{prefix}/"):
            path = path.removeprefix(prefix)
        self.request_class = classify(self.command, path, self.query, self.headers, self.adj.uplink_max_octets)

    def received(self, data: bytes) -> int:
        """Take octets and return how many belong to this request. Too large a body is refused before it is read."""
        consumed: int = super().received(data)
        if self.headers_finished and self.error is None and not self.empty:
            self.error = self._fault()
        if self.error is not None:
            self.completed = True
        if self.error is not None or self.body_rcv is None:
            self.expect_continue = False  # no body will be read
        return consumed

    def _fault(self) -> Error | None:
        body = self.body_rcv
        if max(self.content_length, len(body) if body is not None else 0) > self.request_class.body_max:
            detail = f"The body has more than {self.request_class.body_max} octets, the most that this address accepts."
            return RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        if (
            self.chunked
            and body is not None
            and (len(body.control_line) > _CHUNK_LINE_MAX_OCTETS or len(body.trailer) > _TRAILER_MAX_OCTETS)
        ):
            return BadRequest("A chunk's size or the trailer is too long.")
        return None


class _HeadIsToldError(Exception):
    """HEAD has its answer, so the rest is not computed."""


class AnswerTask(WSGITask):  # type: ignore[misc]
    """Answers with the application; HEAD gets no body, which waitress would send."""

    def execute(self) -> None:
        with suppress(_HeadIsToldError):
            super().execute()

    def write(self, data: bytes) -> None:
        if self.request.command != "HEAD":
            super().write(data)
        elif self.wrote_header:
            raise _HeadIsToldError
        else:
            super().write(b"")

    def finish(self) -> None:
        if self.request.command == "HEAD":
            if not self.wrote_header:
                self.write(b"")
            self.chunked_response = False  # no chunk follows, not even the last one
        super().finish()


class RefusalTask(ErrorTask):  # type: ignore[misc]
    """Sends a refusal in such a way that the client can read it while it is still sending."""

    def execute(self) -> None:
        error = self.request.error
        problem: dict[str, Any] = {
            "type": "about:blank",
            "title": error.reason,
            "status": error.code,
            "detail": error.body,
            "instance": getattr(self.request, "path", ""),
        }
        body = json.dumps(problem).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]
        if retry_after_s := getattr(error, "retry_after_s", None):
            self.response_headers.append(("Retry-After", str(retry_after_s)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.lingers = True
        self.write(b"" if getattr(self.request, "command", "") == "HEAD" else body)
