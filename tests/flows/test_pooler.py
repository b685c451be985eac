"""Behind PgBouncer: session mode works, and `doctor` names what does not."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from ami_headend.health.pooler import is_shared
from tests.flows import databases, pooler
from tests.flows import site as sites
from tests.flows.site import (
    assert_one_verdict_each,
    assert_readings,
    frames_of,
    readings_expected,
    sweep_until_verified,
)
from tests.flows.stack import Stack, running

pytestmark = pytest.mark.skipif(pooler.PROGRAM is None, reason="there is no pgbouncer")


@pytest.fixture(scope="module")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    environ = {"UPLINK_SWEEP_AFTER_S": "1"}
    with django_db_blocker.unblock(), running(tmp_path_factory.mktemp("stack"), (), environ) as stack:
        yield stack


@contextmanager
def behind(stack: Stack, mode: str, limits: Mapping[str, str]) -> Iterator[None]:
    """The stack's processes and commands behind a pooler of a mode, and limits of the role."""
    databases.bound_sessions(str(connection.settings_dict["NAME"]), **limits)
    direct = stack.env["DATABASE_URL"]
    with pooler.before(direct, mode) as pooled:
        stack.env["DATABASE_URL"] = pooled
        try:
            yield
        finally:
            stack.stop_all()
            stack.env["DATABASE_URL"] = direct


def sessions(stack: Stack) -> tuple[bool, str]:
    """What `doctor` says of sessions."""
    found = json.loads(stack.manage("doctor", "--json").stdout)
    (one,) = (finding for finding in found if finding["name"] == "sessions")
    return one["well"], one["found"]


def test_an_uplink_outlives_its_worker_behind_session_mode(stack: Stack) -> None:
    with behind(stack, "session", pooler.LIMITS):
        stack.start_all("web", "worker")
        site = sites.found(stack, 10)
        uplinks = [site.posted(frames_of(site.devices, range(number * 8, number * 8 + 8))) for number in range(3)]
        stack.kill("worker")
        uplinks.append(site.posted(frames_of(site.devices, range(24, 32))))
        stack.start("worker")
        sweep_until_verified(stack, uplinks)
        assert sessions(stack) == (True, "each has a server process of its own, behind a pooler")
    assert assert_one_verdict_each(uplinks) == {"accepted": 320}
    assert_readings(site.devices, readings_expected(site.devices, range(32)))


def test_the_doctor_finds_transaction_mode(stack: Stack) -> None:
    with behind(stack, "transaction", pooler.LIMITS):
        well, found = sessions(stack)
    assert (well, found) == (False, "a pooler gives a session another server process with each transaction")


def test_the_doctor_finds_that_limits_are_not_passed_on(stack: Stack) -> None:
    with behind(stack, "session", dict.fromkeys(pooler.LIMITS, "0")):
        well, found = sessions(stack)
    assert not well
    assert "no time limit is in force" in found


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ([1, 1], [2], False),  # each has its own
        ([1], [1], True),  # both meet in one
        ([1, 3], [2], True),  # the first one got another
        ([1, 1, 1, 4], [2, 2, 2], True),  # the second time
    ],
)
def test_what_two_sessions_tell_of_their_processes(first: list[int], second: list[int], shared: bool) -> None:
    assert is_shared(told(first), told(second)) is shared


def told(processes: Sequence[int]) -> Callable[..., int]:
    """A session that has these processes in turn, and then the last one for ever."""
    left = list(processes)
    return lambda **_: left.pop(0) if len(left) > 1 else left[0]
