"""Receiving an uplink: check that it is one, commit its octets, answer with a receipt, hand it to a worker."""

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
_ZSTD_STEP = 128  # compressed octets at a time: they may grow to 4 MiB before the limit is looked at
_LAST_AFTER = timedelta(minutes=10)


class UplinkError(ValueError):
    """A body that is no uplink. Nothing of it is stored; the message says what is wrong."""


class UplinkTooLargeError(UplinkError):
    """A body over the limits of octets (after decompression) or frames."""


class UnknownEncodingError(UplinkError):
    """A Content-Encoding other than gzip, zstd and identity."""


class Receipt(NamedTuple):
    """What the concentrator gets once the octets are committed: uplink, SHA-256 of the decoded body, frames."""

    uplink_id: int
    sha256: bytes
    frames: int


def decode(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding, never more than UPLINK_MAX_OCTETS in memory.

    Raises UplinkError for octets that are not of that encoding, or end too early.
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
    """Store a decoded body, commit, ``enqueue`` its uplink by its id. The same body again, while its octets are kept,
    gets the same receipt.

    Runs outside any transaction, so that the row is committed when this returns. Raises UplinkError,
    and then nothing was stored. What ``comes_last`` is verified after what others post within ten minutes. A broker
    that does not answer costs time only: the sweep enqueues later.
    """
    frames = _count_frames(body)
    sha256 = hashlib.sha256(body).digest()
    due_at = received_at + timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S) + comes_last * _LAST_AFTER
    uplink_id = uplink_state.add(concentrator_id, body, sha256, frames, received_at, due_at)
    while uplink_id is None:
        standing = _standing(concentrator_id, sha256)
        if standing is not None:
            return Receipt(standing, sha256, frames)
        # the other one was purged between the two statements
        uplink_id = uplink_state.add(concentrator_id, body, sha256, frames, received_at, due_at)
    try:
        enqueue(uplink_id)
    except BROKER_ERRORS as error:
        logger.warning("uplink %s is stored but not enqueued (%s); the sweep will", uplink_id, type(error).__name__)
    return Receipt(uplink_id, sha256, frames)


def _count_frames(body: bytes) -> int:
    try:
        frames = len(split_sequence(body))
    except MalformedError as error:
        raise UplinkError(f"the body is not a CBOR sequence of byte strings: {error}") from None
    if frames == 0:
        raise UplinkError("the body holds no frame")
    if frames > settings.UPLINK_MAX_FRAMES:
        raise UplinkTooLargeError(f"{frames} frames are more than {settings.UPLINK_MAX_FRAMES}; post them in parts")
    return frames


def _standing(concentrator_id: int, sha256: bytes) -> int | None:
    rows = fetch_rows(
        "SELECT id FROM concentrators_uplink WHERE concentrator_id = %s AND sha256 = %s AND body IS NOT NULL",
        concentrator_id,
        sha256,
    )
    return rows[0][0] if rows else None


def _gunzip(body: bytes, limit: int) -> bytes:
    """The members of a gzip body, one after the other (RFC 1952 section 2.2)."""
    return _joined(
        body,
        limit,
        "gzip",
        _GZIP_STEP,
        lambda: zlib.decompressobj(wbits=31),
        lambda one, step, room: one.decompress(step, room),
    )


def _unzstd(body: bytes, limit: int) -> bytes:
    """The frames of a zstd body, one after the other (RFC 8878 section 3.1)."""
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
    """What the streams of a body say, one after the other, or a beginning of it that is over the limit.

    Step by step: what grows is looked at in time, and what follows a stream is not copied again and again. As many
    streams as frames: an empty one costs time, too.
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
