"""Requests to mask authorities over HTTP, and their signed answers.

An authority is somebody else: whatever it answers, and however slowly, costs the others nothing.
"""

import http.client
import json

import httpx

from ami_headend.core.text import one_line
from ami_headend.core.timed_exchange import exchange
from keyvault.masking.messages import MOST

EXCHANGE_S = 15.0  # for a whole exchange, whatever the authority does
_PATH, _HEALTH = "/v1/requests", "/health"
_HEADERS = {"Content-Type": "application/cose", "User-Agent": "ami-headend", "Connection": "close"}
_ANSWER_MAX = 8 * MOST + 4096
# What is refused for good: the authority has answered for those meters in another set, or forgot whether it has.
FOR_GOOD = frozenset({"other_set", "before_state", "too_few"})


class NoAnswerError(Exception):
    """An authority gave no answer. ``code`` is its reason if it refused, and empty if it could not be reached."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def post(url: str, octets: bytes) -> bytes:
    """Post a request and return the answer (octets); NoAnswerError if there is none."""
    status, body = _asked(url, "POST", _PATH, octets, EXCHANGE_S)
    if len(body) > _ANSWER_MAX:
        raise NoAnswerError("malformed_answer", "the answer is too long")
    if status == http.client.OK:
        return body
    raise _refused(status, body)


def reach(url: str, seconds: float) -> None:
    """Ask whether an authority serves at all; NoAnswerError if it does not say so within some seconds."""
    status, body = _asked(url, "GET", _HEALTH, b"", seconds)
    if status != http.client.OK:
        raise _refused(status, body)


def _asked(url: str, method: str, path: str, content: bytes, seconds: float) -> tuple[int, bytes]:
    """Return status and body of an answer; NoAnswerError if there is none."""
    try:
        return _exchange(httpx.URL(url), method, path, content, seconds)
    except httpx.InvalidURL as error:
        raise NoAnswerError("", one_line(f"its address is wrong: {error}")[:250]) from None
    except (http.client.HTTPException, OSError) as error:
        detail = f"it cannot be reached: {type(error).__name__}: {error}"
        raise NoAnswerError("", one_line(detail)[:250]) from None


def _exchange(url: httpx.URL, method: str, path: str, content: bytes, seconds: float) -> tuple[int, bytes]:
    """Return the status of the answer, and its body up to one octet more than it may have."""
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    with exchange(seconds) as this:
        connected = this.connect(this.look_up(url.host, port), port)
        with connected:
            if is_tls:
                connected = httpx.create_ssl_context(trust_env=False).wrap_socket(connected, server_hostname=url.host)
            connection = http.client.HTTPConnection(url.host, port)
            connection.sock = connected
            try:
                connection.request(method, path, content, {"Host": url.netloc.decode(), **_HEADERS})
                with connection.getresponse() as answer:
                    body = answer.read(_ANSWER_MAX + 1)
                this.left_s()  # what the deadline cut off looks complete
                return answer.status, body
            finally:
                connection.close()


def _refused(status: int, body: bytes) -> NoAnswerError:
    """Return why an authority refuses, from its problem details (RFC 9457)."""
    try:
        said = json.loads(body)
        code, detail = one_line(str(said["code"]))[:40], one_line(str(said["detail"]))[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NoAnswerError("", f"it answered {status}")
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return NoAnswerError("", f"it answered {status}: {detail}")
    return NoAnswerError(code, detail)
