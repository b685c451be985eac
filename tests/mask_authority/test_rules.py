"""What an authority answers and refuses: every rule, without a file or a clock."""

import pytest

from keyvault.masking.masks import Cell
from keyvault.masking.messages import SumRequest
from mask_authority.rules import FRESH_S, Answered, Refusal, RefusedError, check_request, check_set

TITLES = tuple(n.to_bytes(8, "big") for n in range(1, 13))
TEN = TITLES[:10]
NOW_S, START_S = 1_767_300_000, 1_767_225_600
CELL = Cell("1-0:1.29.0", START_S, 30)
REQUESTER, OWN = bytes(32), bytes(31) + b"\1"
REQUEST = SumRequest(REQUESTER, OWN, NOW_S, CELL, TEN)
BEFORE = dict.fromkeys(TEN, Answered(1, TEN, 30))


def refused(request: SumRequest = REQUEST, **other: object) -> Refusal:
    facts = {"known": TITLES, "before": {}, "began_s": START_S, "now_s": NOW_S} | other
    with pytest.raises(RefusedError) as caught:
        check_set(request, **facts)  # type: ignore[arg-type]
    return caught.value.refusal


def test_a_first_set_is_answered_and_the_same_set_again() -> None:
    assert check_set(REQUEST, TITLES, {}, START_S, NOW_S) is None
    assert check_set(REQUEST, TITLES, BEFORE, START_S, NOW_S) == Answered(1, TEN, 30)


def test_fewer_than_ten_are_refused() -> None:
    assert refused(REQUEST._replace(titles=TEN[:9])) is Refusal.TOO_FEW
    assert refused(REQUEST._replace(titles=())) is Refusal.TOO_FEW


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST._replace(titles=TITLES[:11]),
        REQUEST._replace(titles=TITLES[1:11]),
        REQUEST._replace(titles=TITLES[2:12]),
        REQUEST._replace(cell=CELL._replace(minutes=15)),
    ],
    ids=["one more", "one other", "two others", "another length"],
)
def test_a_title_is_in_one_set(request_: SumRequest) -> None:
    assert refused(request_, before=BEFORE) is Refusal.OTHER_SET


def test_two_sets_together_are_another_set() -> None:
    first, second = Answered(1, TITLES[:6], 30), Answered(2, TITLES[6:], 30)
    before = dict.fromkeys(TITLES[:6], first) | dict.fromkeys(TITLES[6:], second)
    assert refused(REQUEST._replace(titles=TITLES), before=before) is Refusal.OTHER_SET


def test_starts_before_the_state_began_are_refused_whatever_was_answered() -> None:
    assert refused(began_s=START_S + 1) is Refusal.BEFORE_STATE
    assert refused(began_s=START_S + 1, before=BEFORE) is Refusal.BEFORE_STATE


def test_only_intervals_that_are_over_are_answered() -> None:
    assert refused(now_s=START_S + 1799) is Refusal.NOT_OVER
    assert check_set(REQUEST, TITLES, {}, START_S, START_S + 1800) is None
    assert refused(REQUEST._replace(cell=CELL._replace(minutes=0))) is Refusal.NOT_OVER


def test_meters_that_no_certificate_vouched_for_are_refused_and_named() -> None:
    with pytest.raises(RefusedError) as caught:
        check_set(REQUEST, TITLES[2:], {}, START_S, NOW_S)
    assert (caught.value.refusal, caught.value.titles) == (Refusal.UNKNOWN_METERS, list(TITLES[:2]))


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (REQUEST._replace(requester=bytes(31) + b"\2"), Refusal.NOT_PINNED),
        (REQUEST._replace(authority=bytes(32)), Refusal.OTHER_AUTHORITY),
        (REQUEST._replace(at_s=NOW_S - FRESH_S - 1), Refusal.NOT_FRESH),
        (REQUEST._replace(at_s=NOW_S + FRESH_S + 1), Refusal.NOT_FRESH),
    ],
)
def test_who_may_ask_and_when(request_: SumRequest, refusal: Refusal) -> None:
    check_request(REQUEST, [REQUESTER], OWN, NOW_S)
    with pytest.raises(RefusedError) as caught:
        check_request(request_, [REQUESTER], OWN, NOW_S)
    assert caught.value.refusal is refusal
