"""Receiving an uplink: check that it is one, commit its octets, answer with a receipt, hand it to a worker."""

import hashlib
import logging
import zlib
from datetime import datetime, timedelta
from typing import NamedTuple

import zstandard
from django.conf import settings

from ami_headend.core import broker_errors
from ami_headend.core.broker_errors import BROKER_ERRORS
from concentrators.tasks import verify_uplink
from keyvault.cose.structures import MalformedError, split_sequence
from keyvault.sql import fetch_rows

logger = logging.getLogger(__name__)

_ZSTD_WINDOW_OCTETS = 8 * 1024 * 1024
_ZSTD_STEP = 128  # compressed octets at a time: they may grow to 4 MiB before the limit is looked at


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
        case "gzip":
            decoded = _gunzip(body, limit)
        case "zstd":
            decoded = _unzstd(body, limit)
        case other:
            raise UnknownEncodingError(f"Content-Encoding {other!r} is not one of gzip, zstd, identity")
    if len(decoded) > limit:
        raise UplinkTooLargeError(f"the body has more than {limit} octets after decoding; post it in parts")
    return decoded


def receive(concentrator_id: int, body: bytes, received_at: datetime) -> Receipt:
    """Store a decoded body, commit, enqueue. The same body again, while its octets are kept, gets the same receipt.

    Runs outside any transaction, so that the row is committed when this returns. Raises UplinkError,
    and then nothing was stored. A broker that does not answer costs time only: the sweep enqueues later.
    """
    frames = _count_frames(body)
    sha256 = hashlib.sha256(body).digest()
    uplink_id = _insert(concentrator_id, body, sha256, frames, received_at)
    while uplink_id is None:
        standing = _standing(concentrator_id, sha256)
        if standing is not None:
            return Receipt(standing, sha256, frames)
        uplink_id = _insert(concentrator_id, body, sha256, frames, received_at)  # purged between the two statements
    try:
        broker_errors.redis.ask(lambda: verify_uplink.apply_async((uplink_id,), retry=False))
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


def _insert(concentrator_id: int, body: bytes, sha256: bytes, frames: int, received_at: datetime) -> int | None:
    rows = fetch_rows(
        """INSERT INTO concentrators_uplink (concentrator_id, received_at, sha256, body, octets, frames, due_at,
                  accepted, duplicate, rejected, failures, waiting, attempts, last_error)
           VALUES (%s, %s, %s, %s, %s, %s, %s, 0, 0, 0, '{}', 0, 0, '')
           ON CONFLICT (concentrator_id, sha256) WHERE body IS NOT NULL DO NOTHING RETURNING id""",
        concentrator_id,
        received_at,
        sha256,
        body,
        len(body),
        frames,
        received_at + timedelta(seconds=settings.UPLINK_SWEEP_AFTER_S),
    )
    return rows[0][0] if rows else None


def _gunzip(body: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        decoded = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise UplinkError("the body is not gzip, as its Content-Encoding says") from None
    if len(decoded) <= limit and (not inflater.eof or inflater.unused_data):
        raise UplinkError("the gzip body ends too early, or octets follow it")
    return decoded


def _unzstd(body: bytes, limit: int) -> bytes:
    inflater = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_OCTETS).decompressobj()
    decoded = bytearray()
    try:
        for start in range(0, len(body), _ZSTD_STEP):
            if inflater.eof:
                raise UplinkError("octets follow the zstd body")
            decoded += inflater.decompress(body[start : start + _ZSTD_STEP])
            if len(decoded) > limit:
                return bytes(decoded)
    except zstandard.ZstdError:
        raise UplinkError("the body is not zstd, as its Content-Encoding says") from None
    if not inflater.eof or inflater.unused_data:
        raise UplinkError("the zstd body ends too early, or octets follow it")
    return bytes(decoded)
