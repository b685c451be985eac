"""Requests to mask authorities over HTTP, and their signed answers."""

from datetime import timedelta

import httpx

from keyvault.masking.messages import MOST

_PATH = "/v1/requests"
_TIMEOUT_S = 15.0
_ANSWER_MAX = 8 * MOST + 4096
# What is refused for good: the authority has answered for those meters in another set, or forgot whether it has.
FOR_GOOD = frozenset({"other_set", "before_state", "too_few"})


class NoAnswerError(Exception):
    """An authority gave no answer. ``code`` is its reason if it refused, and empty if it could not be reached."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class MaskClient:
    """Posts signed requests; a context manager that keeps connections open as long as it lives."""

    def __init__(self, timeout: timedelta = timedelta(seconds=_TIMEOUT_S)) -> None:
        self._client = httpx.Client(timeout=timeout.total_seconds(), follow_redirects=False, trust_env=False)

    def __enter__(self) -> "MaskClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, url: str, octets: bytes) -> bytes:
        """Post a request and return the answer (octets); NoAnswerError if there is none."""
        try:
            content = {"Content-Type": "application/cose"}
            with self._client.stream("POST", url.rstrip("/") + _PATH, content=octets, headers=content) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _ANSWER_MAX:
                        raise NoAnswerError("malformed_answer", "the answer is too long")
        except httpx.HTTPError as error:
            raise NoAnswerError("", f"it cannot be reached: {type(error).__name__}: {error}"[:250]) from None
        except httpx.InvalidURL as error:
            raise NoAnswerError("", f"its address is wrong: {error}"[:250]) from None
        if answer.status_code == httpx.codes.OK:
            return body
        raise _refused(answer, body)


def _refused(answer: httpx.Response, body: bytes) -> NoAnswerError:
    """Return why an authority refuses, from its problem details (RFC 9457)."""
    answer._content = body  # noqa: SLF001 - read as a stream
    try:
        said = answer.json()
        code, detail = str(said["code"])[:40], str(said["detail"])[:200]
    except (ValueError, KeyError, TypeError):
        return NoAnswerError("", f"it answered {answer.status_code}")
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return NoAnswerError("", f"it answered {answer.status_code}: {detail}")
    return NoAnswerError(code, detail)
