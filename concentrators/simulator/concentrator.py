"""A simulated concentrator: it posts buffered frames over real HTTP, until the head-end has them. No Django."""

import gzip
import hashlib
import io
import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import cbor2
import httpx
import tenacity
import zstandard

from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.obedience import Fault, Faults
from concentrators.simulator.spool import Batch, Spool

UPLINKS_PATH = "/api/v1/uplinks"
COMMANDS_PATH = "/api/v1/commands"
HOP_KEYS_PATH = "/api/v1/hop-keys"
NEXT_KEY_PATH = "/api/v1/next-key"
HOP_FAILURES_PATH = "/api/v1/hop-failures"
COMPRESSIONS = ("none", "gzip", "zstd")
_POLL_S = 0.1  # then twice as long each time, while nothing is verified
_POLL_AT_MOST_S = 1.6
_FAILURES_AT_ONCE = 500
_BUSY = (429, 502, 503, 504)
_backoff = tenacity.wait_random_exponential(multiplier=0.2, max=30)


class RefusedError(Exception):
    """The head-end refuses a request of this concentrator for good; the text says why."""


class _TryAgainError(Exception):
    """Try again later: no connection, or the head-end is busy. ``retry_after_s`` is the pause that it asked for."""

    def __init__(self, reason: str, retry_after_s: float = 0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Options(NamedTuple):
    """How a concentrator posts. A smaller batch is posted if nothing was for ``linger_s`` seconds."""

    url: str
    batch_frames: int = 1000
    compression: str = "none"
    linger_s: float = 1.0
    timeout_s: float = 30.0
    commands_every_s: float = 2.0
    keys_every_s: float = 5.0
    delay_s: float = 5.0  # of a command whose fault is to come late


class HeadEnd:
    """The head-end as a concentrator sees it. A request is repeated, with back-off and jitter, until it is answered."""

    def __init__(self, options: Options, token: str, giving_up: threading.Event) -> None:
        self._compression = options.compression
        self._giving_up = giving_up
        self._client = httpx.Client(
            base_url=options.url, headers={"Authorization": f"Bearer {token}"}, timeout=options.timeout_s
        )
        self.repeats = 0

    def close(self) -> None:
        self._client.close()

    def post(self, batch: Batch) -> int:
        """Post a batch, and return the id of its uplink. RefusedError if refused for good, or the receipt is wrong."""
        content, headers = self._compress(batch.body)
        headers["Content-Type"] = "application/cbor-seq"
        receipt = self._call("POST", UPLINKS_PATH, 202, content=content, headers=headers)
        if (receipt["sha256"], receipt["frames"]) != (hashlib.sha256(batch.body).hexdigest(), batch.frames):
            raise RefusedError(f"the receipt of uplink {receipt['uplink']} is for another body than the one posted")
        return int(receipt["uplink"])

    def is_verified(self, uplink: int) -> bool:
        return bool(self._call("GET", f"{UPLINKS_PATH}/{uplink}", 200)["verified"])

    def commands(self) -> list[tuple[int, bytes, bytes]]:
        """Return number, system title and octets of each command that is due; none while the head-end is busy."""
        try:
            response = self._ask("GET", COMMANDS_PATH, 200)
        except _TryAgainError:
            return []
        decoder = cbor2.CBORDecoder(stream := io.BytesIO(response.content))
        commands = []
        while stream.tell() < len(response.content):
            number, title, octets = decoder.decode()
            commands.append((number, title, octets))
        return commands

    def hop_keys(self) -> bytes | None:
        """Return the sealed hop keys of the meters; None while the head-end is busy."""
        try:
            return self._ask("GET", HOP_KEYS_PATH, 200).content
        except _TryAgainError:
            return None

    def next_key(self) -> bytes | None:
        """The command with the concentrator's own next key; None if none is pending, or while the head-end is busy."""
        try:
            return self._ask("GET", NEXT_KEY_PATH, 200, 204).content or None
        except _TryAgainError:
            return None

    def dropped(self, failures: list[dict[str, Any]]) -> bool:
        """Report what was dropped on the local link; False while the head-end is busy."""
        try:
            self._ask("POST", HOP_FAILURES_PATH, 204, json={"failures": failures})
        except _TryAgainError:
            return False
        return True

    def delivered(self, number: int) -> None:
        """Acknowledge a command, once: if that is lost, the command comes again."""
        with suppress(_TryAgainError):
            self._ask("POST", f"{COMMANDS_PATH}/{number}/receipt", 204, json={"result": "delivered"})

    def _compress(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        match self._compression:
            case "gzip":
                return gzip.compress(body, compresslevel=1), {"Content-Encoding": "gzip"}
            case "zstd":
                return zstandard.compress(body), {"Content-Encoding": "zstd"}
        return body, {}

    def _call(self, method: str, path: str, expected: int, **request: Any) -> dict[str, Any]:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgainError),
            wait=_wait,
            sleep=tenacity.sleep_using_event(self._giving_up),
            stop=tenacity.stop_when_event_set(self._giving_up),
            before_sleep=self._count_repeat,
            reraise=True,
        )
        answer: dict[str, Any] = retrying(self._call_once, method, path, expected, **request)
        return answer

    def _call_once(self, method: str, path: str, expected: int, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(method, path, expected, **request).json()
        return answer

    def _ask(self, method: str, path: str, *expected: int, **request: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **request)
        except httpx.TransportError as error:
            raise _TryAgainError(f"{type(error).__name__}: {error}") from None
        if response.status_code in expected:
            return response
        reason = f"{method} {path} was answered {response.status_code}: {response.text[:300]}"
        if response.status_code in _BUSY or response.status_code >= 500:
            raise _TryAgainError(reason, retry_after_s(response.headers.get("Retry-After", ""), datetime.now(UTC)))
        raise RefusedError(reason)

    def _count_repeat(self, _: tenacity.RetryCallState) -> None:
        self.repeats += 1


class SimulatedConcentrator(threading.Thread):
    """Concentrator ``number`` at work: batches, posts, keeps receipts, and releases frames that waited for them.

    ``draining`` lets it end when all is posted, ``giving_up`` at once. ``error`` says why it ended early. With
    ``links`` it holds keys: it fetches those of its meters, and reports what it dropped.
    """

    def __init__(
        self,
        number: int,
        spool: Spool,
        token: str,
        options: Options,
        draining: threading.Event,
        giving_up: threading.Event,
        faults: Faults | None = None,
        links: LinkStore | None = None,
    ) -> None:
        super().__init__(name=f"concentrator-{number}", daemon=True)
        self.error: Exception | None = None
        self.posted_frames = 0
        self._number, self._spool, self._options = number, spool, options
        self._draining, self._giving_up = draining, giving_up
        self._head_end = HeadEnd(options, token, giving_up)
        self._posted_at = time.monotonic()
        self._poll_at, self._poll_s = 0.0, _POLL_S
        self._faults = faults or Faults(0, {})
        self._commands_at = time.monotonic()
        self._links = links
        self._keys_at = 0.0
        self._said_failures = "[]"

    @property
    def repeats(self) -> int:
        """Return the number of repeated requests."""
        return self._head_end.repeats

    def run(self) -> None:
        try:
            while not self._giving_up.is_set() and not self._is_done():
                busy = self._post_next()
                self._hold_keys()
                self._pass_commands_on()
                if not self._look_at_verified() and not busy:
                    self._giving_up.wait(0.05)
        except _TryAgainError:
            pass  # interrupted while the head-end did not answer: the batch stays in the spool
        except Exception as error:  # noqa: BLE001 - a thread's end must be known to whoever waits for it
            self.error = error
        finally:
            self._head_end.close()

    def _is_done(self) -> bool:
        return self._draining.is_set() and self._spool.is_drained(self._number) and self._has_said_failures()

    def _post_next(self) -> bool:
        lingered = time.monotonic() - self._posted_at > self._options.linger_s
        partial = lingered or self._draining.is_set()
        batch = self._spool.next_batch(self._number, self._options.batch_frames, partial=partial)
        if batch is None:
            return False
        self._spool.keep_receipt(batch, self._head_end.post(batch))
        self._posted_at = time.monotonic()
        self.posted_frames += batch.frames
        return True

    def _hold_keys(self) -> None:
        """Fetch the keys of the meters and report dropped frames, from time to time."""
        if self._links is None or time.monotonic() < self._keys_at:
            return
        self._fetch_keys(self._links)
        if (octets := self._head_end.next_key()) is not None:
            self._links.keep_next_key(self._number, octets)
        self._keys_at = time.monotonic() + self._options.keys_every_s
        if not self._has_said_failures():
            failures = self._links.failures(self._number)
            if all(self._head_end.dropped(part) for part in _parts(json.loads(failures))):
                self._said_failures = failures

    def _fetch_keys(self, links: LinkStore) -> bool:
        """Whether the head-end said the keys of the meters as they are now; it does not while it is busy."""
        octets = self._head_end.hop_keys()
        if octets is not None and octets != links.keys(self._number):
            links.keep_keys(self._number, octets)
        return octets is not None

    def _has_said_failures(self) -> bool:
        return self._links is None or self._links.failures(self._number) == self._said_failures

    def _pass_commands_on(self) -> None:
        """Fetch commands from time to time, and deliver each: first store it, then acknowledge it."""
        if self._draining.is_set() or time.monotonic() < self._commands_at:
            return
        commands = self._head_end.commands()
        if commands and self._links is not None and not self._fetch_keys(self._links):
            commands = []  # a key that one of them brings must be here before the meter uses it; they come again
        for number, title, octets in commands:
            fault = self._faults.draw(number)
            if fault is Fault.LOSE:
                continue
            due_s = time.time() + (self._options.delay_s if fault is Fault.DELAY else 0)
            for _ in range(2 if fault is Fault.REPEAT else 1):
                self._spool.post_mail(self._number, title, octets, fault or "", due_s)
            if fault not in (Fault.DELAY, Fault.LOSE_ANSWER):
                self._head_end.delivered(number)
        self._commands_at = time.monotonic() + self._options.commands_every_s

    def _look_at_verified(self) -> bool:
        """Ask for the oldest uplink that frames wait for; True when it was verified."""
        if time.monotonic() < self._poll_at:
            return False
        uplink = self._spool.awaited_uplink(self._number)
        if uplink is not None and self._head_end.is_verified(uplink):
            self._spool.mark_verified(uplink)
            self._spool.release_behind(self._number)
            self._poll_s = _POLL_S
            return True
        self._poll_at = time.monotonic() + self._poll_s
        self._poll_s = min(2 * self._poll_s, _POLL_AT_MOST_S)
        return False


def _parts(failures: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [failures[first : first + _FAILURES_AT_ONCE] for first in range(0, len(failures), _FAILURES_AT_ONCE)]


def retry_after_s(header: str, now: datetime) -> float:
    """Return the seconds of Retry-After (RFC 9110 section 10.2.3: seconds or a date); 0 without it."""
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, _TryAgainError) else 0.0
    return asked_s + float(_backoff(state))
