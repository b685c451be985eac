"""Which limit an act would break, from numbers alone."""

import pytest

from concentrators.commands.command_limits import SHIPPED, SPANS, Given, Limit, applying, broken
from concentrators.models import CommandKind, LimitSpan

ACT, HOUR, DAY = Limit("act", 1_000, 20), Limit("hour", 100), Limit("day", 500)


@pytest.mark.parametrize(
    ("limits", "number", "given", "says"),
    [
        ([HOUR, DAY], 1, Given({"hour": 99, "day": 499}), ""),
        ([HOUR, DAY], 2, Given({"hour": 99, "day": 99}), "beyond the limit of 100 an hour: 99 given, 2 more"),
        ([HOUR, DAY], 1, Given({"hour": 0, "day": 500}), "beyond the limit of 500 a day: 500 given, 1 more"),
        ([ACT], 1_000, Given({}, 5_000), ""),
        ([ACT], 1_001, Given({}, 1_000_000), "beyond the limit of 1,000 in one act: 1,001"),
        ([ACT], 301, Given({}, 1_500), "beyond 20 % of the 1,500 meters in service: 301"),
        ([ACT], 100, Given({}, 100), ""),  # a small fleet is no share of itself
        ([Limit("act", 0)], 1, Given({}), "beyond the limit of 0 in one act: 1"),
        ([], 10**6, Given({}), ""),
    ],
)
def test_limits(limits: list[Limit], number: int, given: Given, says: str) -> None:
    assert broken(limits, number, given) == says


def test_an_accounts_own_limit_of_a_span_replaces_the_general_one() -> None:
    assert applying([DAY, HOUR], [Limit("hour", 7)]) == [Limit("hour", 7), DAY]
    assert applying([DAY, HOUR], []) == [HOUR, DAY]


def test_what_is_shipped_is_for_kinds_and_spans_that_there_are() -> None:
    assert {kind for kind, *_ in SHIPPED} == {kind.value for kind in CommandKind}
    assert {span for _, span, *_ in SHIPPED} == set(SPANS) == {span.value for span in LimitSpan}
