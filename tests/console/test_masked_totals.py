"""What is shown of masked totals: page, REST, metrics, alerts, and the page of a meter that masks."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts import evaluation
from ami_headend.alerts.models import Alert, Condition, Rule
from ami_headend.metrics.collector import registry
from ami_headend.signin import roles
from concentrators.models import Concentrator, IntervalTotal, MaskedSet, MaskQuestion
from keyvault.models import MaskAuthority
from meters.models import Register
from tests.concentrators.fleet import INTERVAL, START, judged
from tests.concentrators.masked_devices import of_masked_ccm
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
TITLES = b"".join(n.to_bytes(8, "big") for n in range(10))


@pytest.fixture
def authorities() -> list[MaskAuthority]:
    made = [
        MaskAuthority(name=name, url="http://x", public=bytes((n,)) * 32, pinned_at=START, mac=b"")
        for n, name in enumerate(("council", "university"))
    ]
    return MaskAuthority.objects.bulk_create(made)


def a_set(authorities: list[MaskAuthority], answered: int = 0, minutes: int = 0, **other: Any) -> MaskedSet:
    """A set that some authorities have answered."""
    fields: dict[str, Any] = {
        "register": Register.objects.get(obis_code=INTERVAL),
        "interval_start": START + timedelta(minutes=minutes),
        "interval_minutes": 30,
        "part": 1,
        "titles": TITLES,
        "meters": 10,
        "masked_sum": 5,
        "made_at": START,
    }
    one = MaskedSet.objects.create(**fields | other)
    for number, authority in enumerate(authorities):
        answer = {"answer": b"signed", "mask_sum": 7} if number < answered else {}
        MaskQuestion.objects.create(set=one, authority=authority, due_at=START, **answer)
    return one


def shown(client: Client) -> list[list[str]]:
    answer = client.get(reverse("admin:masked_totals"), {"from": "2020-01-01T00:00"})
    assert answer.status_code == 200
    return [[str(cell.content) for cell in row] for row in answer.context["content"].rows]


def test_the_page_says_what_is_known_and_what_is_waited_for(authorities: list[MaskAuthority]) -> None:
    client = person(roles.OPERATOR)
    a_set(authorities, 2, total=10_234, closed_at=START)
    a_set(authorities, 1, minutes=30)
    a_set(authorities, 2, minutes=60, refusal="out of range: wrong", closed_at=START)
    known, open_, refused = shown(client)
    assert ("10,234 Wh" in known[3], known[4]) == (True, "10")
    assert "waits for university" in open_[5]
    assert "no total: out of range: wrong" in refused[5]


def test_the_page_costs_the_same_for_any_number_of_sets(authorities: list[MaskAuthority]) -> None:
    client = person(roles.OPERATOR)
    costs = []
    for minutes in (0, 30, 60, 90):
        a_set(authorities, 1, minutes)
        with counting() as statements:
            shown(client)
        costs.append(len(statements))
    assert len(set(costs[1:])) == 1


def test_rest_gives_totals_and_signed_answers(authorities: list[MaskAuthority]) -> None:
    client = person(roles.AUDITOR)
    one = a_set(authorities, 2, total=2**64 - 1, closed_at=START)
    period = {"from": START.isoformat(), "to": (START + timedelta(hours=9)).isoformat()}
    (row,) = client.get("/api/v1/masked-totals", period).json()["results"]
    assert (row["value_sum"], row["meters"], row["waits_for"], row["unit"]) == (2**64 - 1, 10, "", "Wh")
    found = client.get(f"/api/v1/masked-totals/{one.pk}/answers").json()
    assert found["system_titles"] == [n.to_bytes(8, "big").hex() for n in range(10)]
    assert found["answers"][0] == {
        "authority": "council",
        "public_key": "00" * 32,
        "answer": b"signed".hex(),
        "mask_sum": 7,
    }
    assert client.get(f"/api/v1/masked-totals/{one.pk + 1}/answers").status_code == 404
    csv = client.get("/api/v1/masked-totals", {**period, "format": "csv"})
    assert b"18446744073709551615" in b"".join(csv.streaming_content)  # type: ignore[attr-defined]


def test_rest_gives_pages(authorities: list[MaskAuthority]) -> None:
    client = person(roles.AUDITOR)
    for minutes in (0, 30, 60):
        a_set(authorities, 0, minutes)
    period = {"from": START.isoformat(), "to": (START + timedelta(hours=9)).isoformat(), "page_size": "2"}
    first = client.get("/api/v1/masked-totals", period).json()
    second = client.get(first["next"]).json()
    assert (len(first["results"]), len(second["results"]), second["next"]) == (2, 1, None)


def test_the_page_of_a_meter_says_why_there_is_no_load_profile() -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    device = of_masked_ccm(concentrator)
    judged(concentrator, [device.frame(0)], timezone.now())
    page = person(roles.OPERATOR).get(reverse("admin:meter", args=[device.meter.pk])).content.decode()
    assert "This meter masks what it measures" in page
    assert "Nothing was received for this period" not in page
    assert IntervalTotal.objects.get().meters_masked == 1


def test_metrics_say_what_is_open(authorities: list[MaskAuthority]) -> None:
    a_set(authorities, 1)
    a_set(authorities, 2, minutes=30, total=1, closed_at=START)
    values = {
        (sample.name, sample.labels.get("authority")): sample.value
        for family in registry().collect()
        for sample in family.samples
    }
    assert values["ami_headend_masked_sets_open", None] == 1
    assert values["ami_headend_mask_questions_open", "council"] == 0
    assert values["ami_headend_mask_questions_open", "university"] == 1


class TestAlerts:
    def evaluated(self, condition: Condition) -> list[Alert]:
        Rule.objects.exclude(condition=condition).update(is_enabled=False)
        Rule.objects.update(evaluated_at=None)
        evaluation.evaluate(timezone.now())
        return list(Alert.objects.filter(resolved_at=None))

    def test_an_authority_that_does_not_answer_until_it_does(self, authorities: list[MaskAuthority]) -> None:
        a_set(authorities, 1)
        now = timezone.now()
        asked = MaskQuestion.objects.filter(answer=None)
        asked.update(failing_since=now - timedelta(hours=1), error="it cannot be reached")
        assert self.evaluated(Condition.MASK_AUTHORITY) == []
        asked.update(failing_since=now - timedelta(hours=3))
        (alert,) = self.evaluated(Condition.MASK_AUTHORITY)
        assert alert.summary.startswith("no answer of university since")
        assert alert.summary.endswith("(it cannot be reached)")
        MaskQuestion.objects.update(answer=b"signed")
        assert self.evaluated(Condition.MASK_AUTHORITY) == []

    def test_sets_that_have_no_total_for_good(self, authorities: list[MaskAuthority]) -> None:
        assert self.evaluated(Condition.MASKED_REFUSED) == []
        one = a_set(authorities, 2, refusal="council: other_set", closed_at=timezone.now())
        (alert,) = self.evaluated(Condition.MASKED_REFUSED)
        assert alert.summary == "1 set of masked values has no total; the latest: council: other_set"
        MaskedSet.objects.filter(pk=one.pk).update(closed_at=timezone.now() - timedelta(days=2))
        assert self.evaluated(Condition.MASKED_REFUSED) == []
