"""Receives uplinks: checks the body, commits its octets, returns a receipt, and enqueues it for a worker."""

import hashlib
import logging
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import zstandard
from django.conf import settings

from ami_headend.core.broker_errors import BROKER_ERRORS
from ami_headend.core.sql import fetch_rows
from concentrators.ingest import uplink_state
from keyvault.cose.structures import MalformedError, split_sequence

logger = logging.getLogger(__name__)

_ZSTD_WINDOW_OCTETS = 8 * 1024 * 1024
_GZIP_STEP = 4096
_ZSTD_STEP = 128  # compressed octets at a time: they may grow to 4 MiB before the limit is checked
_LAST_AFTER = timedelta(minutes=10)


class UplinkError(ValueError):
    """A body that is no uplink. Nothing is stored; the message says what is wrong."""


class UplinkTooLargeError(UplinkError):
    """A body over the limits of octets (after decompression) or frames."""


class UnknownEncodingError(UplinkError):
    """A Content-Encoding other than gzip, zstd and identity."""


class Receipt(NamedTuple):
    """The receipt of a concentrator, once the octets are committed: uplink, SHA-256 of the decoded body, frames.

    With ``is_again`` the same body had come before, and nothing was stored.
    """

    uplink_id: int
    sha256: bytes
    frames: int
    is_again: bool = False


def lost(body: bytes) -> Receipt:
    """A receipt of nothing: the body is lost on purpose, in a conformance run. Its number, 0, is that of no uplink."""
    return Receipt(0, hashlib.sha256(body).digest(), len(frames_of(body)))


def decode(body: bytes, encoding: str) -> bytes:
    """Undo the Content-Encoding of a body, with never more than UPLINK_MAX_OCTETS in memory.

    UplinkError for octets that are not of that encoding, or end too early.
    """
    limit = settings.UPLINK_MAX_OCTETS
    match encoding.strip().lower():
        case "" | "identity":
            decoded = body
        case "gzip" | "x-gzip":  # the same (RFC 9110 section 8.4.1.3)
            decoded = _gunzip(body, limit)
        case "zstd":
            decoded = _unzstd(body, limit)
        case other:
            raise UnknownEncodingError(f"Content-Encoding {other!r} is not one of gzip, zstd, identity")
    if len(decoded) > limit:
        raise UplinkTooLargeError(f"the body has more than {limit} octets after decoding; post it in parts")
    return decoded


def receive(
    concentrator_id: int,
    body: bytes,
    received_at: datetime,
    enqueue: Callable[[int], object],
    *,
    comes_last: bool = False,
) -> Receipt:
    """Store a decoded body, commit, and ``enqueue`` its uplink by its id.

    The same body again gets the same receipt, while its octets are stored. Runs outside any transaction, so that the
    row is committed when this returns. UplinkError if nothing was stored. An uplink that ``comes_last`` is verified
    after what others post within ten minutes. A broker that does not answer only costs time: the sweep enqueues later.
    """
    frames = len(frames_of(body))
    sha256 = hashlib.sha256(body).digest()
    due_at = received_at + timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S) + comes_last * _LAST_AFTER
    uplink_id = uplink_state.add(concentrator_id, body, sha256, frames, received_at, due_at)
    while uplink_id is None:
        standing = _standing(concentrator_id, sha256)
        if standing is not None:
            return Receipt(standing, sha256, frames, is_again=True)
        # the octets of the other one were deleted between the two statements
        uplink_id = uplink_state.add(concentrator_id, body, sha256, frames, received_at, due_at)
    try:
        enqueue(uplink_id)
    except BROKER_ERRORS as error:
        logger.warning("uplink %s is stored but not enqueued (%s); the sweep will", uplink_id, type(error).__name__)
    return Receipt(uplink_id, sha256, frames)


def frames_of(body: bytes) -> list[bytes]:
    """Return the frames of a decoded body; UplinkError where it is none that would be stored."""
    try:
        frames = split_sequence(body)
    except MalformedError as error:
        raise UplinkError(f"the body is not a CBOR sequence of byte strings: {error}") from None
    if not frames:
        raise UplinkError("the body holds no frame")
    if len(frames) > settings.UPLINK_MAX_FRAMES:
        raise UplinkTooLargeError(
            f"{len(frames)} frames are more than {settings.UPLINK_MAX_FRAMES}; post them in parts"
        )
    return frames


def _standing(concentrator_id: int, sha256: bytes) -> int | None:
    """Return the uplink of the same body.

    Its row may be committed here and not yet at a synchronous standby. Locking the row writes to the log, so that this
    statement's commit waits for the standby, too.
    """
    rows = fetch_rows(
        "SELECT id FROM concentrators_uplink WHERE concentrator_id = %s AND sha256 = %s AND body IS NOT NULL"
        " FOR KEY SHARE",
        concentrator_id,
        sha256,
    )
    return rows[0][0] if rows else None


def _gunzip(body: bytes, limit: int) -> bytes:
    """Yield the members of a gzip body (RFC 1952 section 2.2)."""
    return _joined(
        body,
        limit,
        "gzip",
        _GZIP_STEP,
        lambda: zlib.decompressobj(wbits=31),
        lambda one, step, room: one.decompress(step, room),
    )


def _unzstd(body: bytes, limit: int) -> bytes:
    """Yield the frames of a zstd body (RFC 8878 section 3.1)."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_OCTETS)
    return _joined(
        body, limit, "zstd", _ZSTD_STEP, decompressor.decompressobj, lambda one, step, room: one.decompress(step)
    )


def _joined(
    body: bytes,
    limit: int,
    encoding: str,
    step_octets: int,
    begin: Callable[[], Any],
    inflate: Callable[[Any, bytes, int], bytes],
) -> bytes:
    """Join the decoded streams of a body, or return a beginning that is over the limit.

    It decodes in steps, so that it stops in time, and does not copy the rest of the body again and again. At most as
    many streams as frames are allowed, because an empty stream costs time, too.
    """
    decoded = bytearray()
    inflater = begin()
    streams = 1
    try:
        for start in range(0, len(body), step_octets):
            step = body[start : start + step_octets]
            while step:
                if inflater.eof:
                    inflater = begin()
                    streams += 1
                    if streams > settings.UPLINK_MAX_FRAMES:
                        raise UplinkTooLargeError(f"the {encoding} body is in more than {streams - 1} parts")
                decoded += inflate(inflater, step, limit + 1 - len(decoded))
                if len(decoded) > limit:
                    return bytes(decoded)
                step = inflater.unused_data if inflater.eof else b""
    except (zlib.error, zstandard.ZstdError):
        if streams == 1:
            raise UplinkError(f"the body is not {encoding}, as its Content-Encoding says") from None
        raise UplinkError(f"octets follow the {encoding} body") from None
    if not inflater.eof:
        raise UplinkError(f"the {encoding} body ends too early" + ", or octets follow it" * (streams > 1))
    return bytes(decoded)
