"""While Redis does not answer, one request in a while asks it, and the others do not wait."""

import pytest
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ami_headend.core.broker_errors import BROKER_ERRORS, Rest, RestingError, summary


class Redis:
    """Counts how often it was asked."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return "PONG"


@pytest.mark.parametrize("error", [RedisTimeoutError(), ReadOnlyError("READONLY"), ConnectionRefusedError()])
def test_it_is_left_alone_for_a_while_and_then_asked_by_one(error: Exception) -> None:
    now_s = [0.0]
    rest = Rest(5.0, lambda: now_s[0])
    redis = Redis(error)
    with pytest.raises(type(error)):
        rest.ask(redis)
    for now_s[0] in (0.1, 4.9):
        with pytest.raises(RestingError):
            rest.ask(redis)
    assert redis.asked == 1

    now_s[0] = 5.1
    redis.error = None

    def asked_meanwhile() -> str:
        with pytest.raises(RestingError):
            rest.ask(redis)
        return redis()

    assert rest.ask(asked_meanwhile) == "PONG"
    assert rest.ask(redis) == "PONG"
    assert redis.asked == 3


def test_what_is_no_error_of_redis_is_let_through() -> None:
    rest = Rest()
    with pytest.raises(ZeroDivisionError):
        rest.ask(Redis(ZeroDivisionError()))
    assert rest.ask(Redis(None)) == "PONG"
    assert isinstance(RestingError("resting"), BROKER_ERRORS)
    assert (summary(OSError("one\ntwo")), summary(TimeoutError())) == ("one", "TimeoutError")
