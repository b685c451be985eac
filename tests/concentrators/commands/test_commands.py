"""manage.py concentrator and recompute_totals."""

import re
from datetime import timedelta
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken, IntervalTotal
from tests.concentrators.fleet import START, commission, verified
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


def run(*words: str) -> str:
    out = StringIO()
    call_command("concentrator", *words, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_a_concentrator_gets_a_token_that_works_until_it_is_revoked() -> None:
    assert "Registered DCU-17" in run("add", "DCU-17")
    token = run("token", "DCU-17", "--label", "spring", "--days", "365").strip()
    row = tokens.find(token, timezone.now())
    assert row is not None
    assert row.concentrator.name == "DCU-17"
    assert row.expires_at is not None
    assert timedelta(days=364) < row.expires_at - timezone.now() <= timedelta(days=365)
    assert tokens.find(token, row.expires_at) is None
    listed = run("tokens", "DCU-17")
    assert listed.startswith(f"{row.pk}  valid  spring  last used")
    assert token not in listed
    run("revoke", "DCU-17", "--token", str(row.pk))
    assert tokens.find(token, timezone.now()) is None
    assert run("tokens", "DCU-17").startswith(f"{row.pk}  revoked")


def test_several_tokens_are_valid_at_once() -> None:
    run("add", "DCU-1")
    first, second = run("token", "DCU-1").strip(), run("token", "DCU-1").strip()
    assert first != second
    assert tokens.find(first, timezone.now()) is not None
    assert tokens.find(second, timezone.now()) is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "DCU-1"), "there is a concentrator DCU-1 already"),
        (("token", "DCU-2"), "there is no concentrator DCU-2"),
        (("add", ""), "name '': This field cannot be blank"),
        (("add", "x" * 121), "at most 120 characters"),
        (("add", "DCU\a2"), "cannot be shown"),
        (("token", "DCU-1", "--days", "0"), "--days takes a number from 1"),
        (("token", "DCU-1", "--days", "999999999"), "--days takes a number from 1 to 36500"),
        (("token", "DCU-1", "--label", "x" * 121), "at most 120 characters"),
        (("token", "DCU-1", "--label", "spring\n2"), "holds control characters"),
        (("revoke", "DCU-1"), "has no token None"),
        (("revoke", "DCU-1", "--token", "99999"), "has no token 99999"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(words: tuple[str, ...], said: str) -> None:
    run("add", "DCU-1")
    with pytest.raises(CommandError, match=said):
        run(*words)
    assert Concentrator.objects.count() == 1
    assert not ConcentratorToken.objects.exists()


def recompute(*words: str) -> str:
    out = StringIO()
    call_command("recompute_totals", "--from", (START - timedelta(days=1)).isoformat(), *words, stdout=out)
    return out.getvalue()


@pytest.fixture
def totals_of_a_day() -> Concentrator:
    concentrator = ConcentratorFactory.create()
    verified(concentrator, [device.frame(n) for device in commission(3, concentrator) for n in range(4)])
    assert "Totals and readings agree" in recompute()
    return concentrator


@pytest.mark.parametrize("change", ["changed", "missing", "surplus"])
def test_a_wrong_total_is_found_and_mended(totals_of_a_day: Concentrator, change: str) -> None:
    total = IntervalTotal.objects.filter(interval_start=START)
    if change == "changed":
        total.update(value_sum=7)
    elif change == "missing":
        total.delete()
    else:
        row = total.get()
        row.interval_start -= timedelta(minutes=30)
        row.save(force_insert=True)
    with pytest.raises(CommandError, match="1 total differs") as refused:
        recompute()
    assert refused.value.returncode == 1
    assert "1 total was set" in recompute("--fix")
    assert "Totals and readings agree" in recompute()
    assert IntervalTotal.objects.get(interval_start=START).value_sum == 300
    assert IntervalTotal.objects.count() == 4


def test_totals_that_outlive_their_readings_are_left_alone(totals_of_a_day: Concentrator) -> None:
    row = IntervalTotal.objects.get(interval_start=START)
    row.interval_start -= timedelta(days=settings.RETENTION_DAYS + 40)
    row.save(force_insert=True)
    for words in (("--fix",), ()):
        with pytest.raises(CommandError, match="readings are kept from"):
            call_command("recompute_totals", "--from", row.interval_start.isoformat(), *words)
    assert IntervalTotal.objects.filter(interval_start=row.interval_start).exists()


def test_beyond_the_present_there_is_nothing_to_compare(totals_of_a_day: Concentrator) -> None:
    assert re.search(r"agree, \d days", recompute("--to", "9999-12-31T23:59:00Z"))


@pytest.mark.parametrize(
    ("words", "said"), [(("--to", "2001-01-01"), "must lie before"), (("--to", "x"), "is not a time")]
)
def test_a_period_that_is_none_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        recompute(*words)
