"""Where pinning an authority takes a second person, a run has no meters that sign, and can say so."""

import pytest
from django.utils import timezone

from concentrators.simulator.loads import PlanError, RunRequest, left_out, make_plan

SCHEMES = ["ccm", "ccm + signed", "mac"]


def wish(*schemes: str, enrols: bool) -> RunRequest:
    return RunRequest(concentrators=1, meters=6, days=1, interval_minutes=[30], schemes=list(schemes), enrols=enrols)


def test_meters_that_sign_are_left_out_and_named() -> None:
    asked = wish(*SCHEMES, enrols=False)
    assert left_out(asked) == ["ccm + signed"]
    plan, _ = make_plan(asked, timezone.now())
    assert {plan.scheme_of(number) for number in range(6)} == {"ccm", "mac"}


def test_where_nobody_has_to_approve_none_is_left_out() -> None:
    assert left_out(wish(*SCHEMES, enrols=True)) == []


def test_a_run_of_those_alone_is_refused() -> None:
    with pytest.raises(PlanError, match="second person"):
        make_plan(wish("ccm + signed", enrols=False), timezone.now())
