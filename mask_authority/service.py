"""A mask authority over HTTP: POST /v1/requests takes a signed request, and gives the signed answer or a problem."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from keyvault.masking.masks import mask, mask_key
from keyvault.masking.messages import (
    MOST,
    MessageError,
    MetersRequest,
    Request,
    SumRequest,
    open_request,
    seal_meters,
    seal_sum,
    verify,
)
from mask_authority.keys import AuthorityKeys, AuthorityStateError
from mask_authority.rules import Refusal, RefusedError, check_request, check_set, named
from mask_authority.state import State, describe

logger = logging.getLogger("mask_authority")

PATH = "/v1/requests"
COSE = "application/cose"
BODY_MAX = 8 * MOST + 4096
_STATUS = {
    Refusal.MALFORMED: "400 Bad Request",
    Refusal.NOT_PINNED: "403 Forbidden",
    Refusal.OTHER_AUTHORITY: "403 Forbidden",
    Refusal.NOT_FRESH: "403 Forbidden",
}
_KEYS_KEPT = 100_000


class Authority:
    """Answers requests by the rules, with its keys and state; ``clock`` gives the time (Unix seconds)."""

    def __init__(self, keys: AuthorityKeys, state: State, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._state, self._clock = keys, state, clock
        self._mask_key = lru_cache(_KEYS_KEPT)(self._new_mask_key)

    def answer(self, octets: bytes) -> bytes:
        """The signed answer (octets) to a signed request; RefusedError, AuthorityStateError. What it asks is logged."""
        now_s = int(self._clock())
        request = self._opened(octets, now_s)
        said = _said(request)
        try:
            if isinstance(request, MetersRequest):
                known = self._state.publics(request.titles)
                answer = seal_meters(self._keys.signing, [title for title in request.titles if title in known])
            else:
                answer = self._sum(request, now_s)
        except RefusedError as error:
            self._state.note(now_s, request.requester, said, f"{error.refusal}: {error}")
            logger.warning("refused %s: %s: %s", said, error.refusal, error)
            raise
        self._state.note(now_s, request.requester, said, "answered")
        logger.info("answered %s", said)
        return answer

    def _opened(self, octets: bytes, now_s: int) -> Request:
        """A request of somebody who may ask; of others nothing is kept, for anybody can send them."""
        try:
            request = open_request(octets)
            check_request(request, self._state.requesters, self._keys.sign_public, now_s)
            verify(octets, request.requester)
        except MessageError as error:
            logger.warning("refused: %s", error)
            raise RefusedError(Refusal.MALFORMED, str(error)) from None
        except RefusedError as error:
            logger.warning("refused: %s", error)
            raise
        return request

    def _sum(self, request: SumRequest, now_s: int) -> bytes:
        with self._state.alone():
            self._state.check_whole()  # a copy may have been put in its place while this runs
            publics = self._state.publics(request.titles)
            before = check_set(request, publics, self._state.answered(request), self._state.began_s, now_s)
            if before is not None:
                return self._state.answer_of(before.number)
            total = sum(mask(self._mask_key(title, publics[title]), title, request.cell) for title in request.titles)
            answer = seal_sum(self._keys.signing, request.cell, request.titles, total)
            self._state.keep(request, answer, now_s)
        return answer

    def _new_mask_key(self, title: bytes, public: bytes) -> bytes:
        return mask_key(self._keys.masks, public, title, public, self._keys.mask_public)


def application(authority: Authority) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """The WSGI application (PEP 3333) of an authority."""

    def serve(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/health" and environ["REQUEST_METHOD"] == "GET":
            return _plain(start, "200 OK", "text/plain", b"ok\n")
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "POST":
            return _problem(start, "404 Not Found", "not_found", f"requests are posted to {PATH}")
        try:
            answer = authority.answer(environ["wsgi.input"].read(BODY_MAX + 1))
        except RefusedError as error:
            status = _STATUS.get(error.refusal, "409 Conflict")
            return _problem(start, status, str(error.refusal), str(error), error.titles)
        except AuthorityStateError as error:
            logger.error("nothing is answered: %s", error)
            return _problem(start, "503 Service Unavailable", "state", "the authority's state needs its operator")
        return _plain(start, "200 OK", COSE, answer)

    return serve


def _plain(start: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _problem(start: StartResponse, status: str, code: str, detail: str, titles: Iterable[bytes] = ()) -> list[bytes]:
    """Problem details (RFC 9457)."""
    said: dict[str, Any] = {"title": status[4:], "status": int(status[:3]), "code": code, "detail": detail}
    said["meters"] = [title.hex() for title in titles][:1_000]
    return _plain(start, status, "application/problem+json", json.dumps(said).encode())


def _said(request: Request) -> str:
    if isinstance(request, SumRequest):
        return describe(request.cell, len(request.titles))
    return f"which of {len(request.titles)} meters it has taken ({named(request.titles)})"
