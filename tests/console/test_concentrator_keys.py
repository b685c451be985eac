"""The blocks of a concentrator that holds keys: its keys, what it dropped, and sums that differ."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from concentrators.fleet import hop_failures, hop_key_sets
from concentrators.fleet.hop_failures import HopFailureEntry, HopFault
from concentrators.models import Concentrator
from concentrators.totals import reported_sums
from tests.concentrators.fleet import verified
from tests.concentrators.statements import counting
from tests.concentrators.test_hop_reports import Holder, meters
from tests.console.people import person
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def holder() -> Holder:
    return Holder()


def page_of(concentrator: Concentrator) -> str:
    return reverse("admin:concentrator", args=[concentrator.pk])


def busy(holder: Holder, count: int) -> None:
    """Meters of which the concentrator dropped frames, and sums that are not ours."""
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    devices = meters(holder, count)
    entries = [HopFailureEntry(one.title, hour, HopFault.UNTAGGED, 4_321, ()) for one in devices]
    hop_failures.report(holder.row.pk, entries, now)
    verified(holder.row, [holder.sums(98_765, 41, n) for n in range(count)], now)
    reported_sums.compare(now)
    hop_key_sets.sealed(holder.row.pk, now)


def test_an_operator_sees_all_of_it(holder: Holder) -> None:
    client = person(roles.OPERATOR)
    text = client.get(page_of(holder.row)).content.decode()
    assert "it has fetched none yet" in text
    assert "All that it added up is what we have" in text
    busy(holder, 1)
    text = client.get(page_of(holder.row)).content.decode()
    assert holder.title.hex() in text
    for said in ("were sealed", "no hop tag", "4,321", "98,765", "Sums that differ from ours"):
        assert said in text


def test_who_may_see_no_totals_sees_no_sums(holder: Holder) -> None:
    busy(holder, 1)
    text = person(roles.KEY_OFFICER).get(page_of(holder.row)).content.decode()
    assert "Its own keys" in text
    assert "Sums that differ" not in text
    text = person(roles.ADMINISTRATOR).get(page_of(holder.row)).content.decode()
    assert "Its own keys" not in text


def test_a_concentrator_without_a_title_has_none_of_it() -> None:
    text = person(roles.OPERATOR).get(page_of(ConcentratorFactory.create())).content.decode()
    assert "Its own keys" not in text
    assert "Dropped on the local link" not in text


def test_the_page_costs_the_same_however_much_there_is(holder: Holder) -> None:
    client = person(roles.OPERATOR)
    counts = []
    for count in (1, 5):
        busy(holder, count)
        client.get(page_of(holder.row))
        with counting() as statements:
            client.get(page_of(holder.row))
            counts.append(len(statements))
    assert counts[0] == counts[1]
