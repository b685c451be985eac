"""Rules for one group find its meters and concentrators alone; those about the whole head-end have none."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from ami_headend.alerts.conditions import SEARCHES
from ami_headend.alerts.forms import RuleForm
from ami_headend.alerts.models import Condition, Rule
from ami_headend.alerts.parameters import PARAMETERS
from concentrators.failures.kinds import FailureKind
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.models import Concentrator, Uplink
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup
from meters.models import Meter, MeterEvent, Register
from meters.readings.obis import FRAUD_LOG
from meters.registry.groups import parse
from tests.alerts.conftest import only
from tests.concentrators.fleet import commission
from tests.factories import ConcentratorFactory, IntegrityFailureFactory

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "test")


@pytest.fixture
def north() -> FleetGroup:
    """A group of concentrator 0 of two, each with a meter; both have all that can be wrong."""
    long_ago = timezone.now() - timedelta(days=30)
    log = Register.objects.get(obis_code=FRAUD_LOG)
    for _ in range(2):
        concentrator = ConcentratorFactory.create()
        (device,) = commission(1, concentrator)
        Concentrator.objects.update(created_at=long_ago)
        for kind in (FailureKind.COUNTER_REUSED, FailureKind.TAG_INVALID):
            IntegrityFailureFactory.create(meter=device.meter, concentrator=concentrator, kind=kind)
        at = {"captured_at": timezone.now(), "received_at": timezone.now()}
        MeterEvent.objects.create(meter=device.meter, register=log, value=1, uplink_id=1, **at)
    Meter.objects.update(commissioned_at=long_ago)
    group = groups.make(parse("district:North"), ACTOR)
    groups.put(group, Members(concentrators=[Concentrator.objects.order_by("pk")[0].pk]), ACTOR)
    return group


@pytest.mark.parametrize(
    ("condition", "numbers", "kind"),
    [
        (Condition.KIND_SEEN, {"selector": "counter_reused", "threshold": 1.0}, "meter"),
        (Condition.KIND_SEEN, {"selector": "tag_invalid", "threshold": 1.0}, "concentrator"),
        (Condition.METER_EVENT, {"selector": FRAUD_LOG, "threshold": 1.0}, "meter"),
        (Condition.SILENT_CONCENTRATOR, {}, "concentrator"),
        (Condition.KEYS_WORN, {"threshold": 0.0}, "meter"),
        (Condition.SILENT_METER, {"period_minutes": 1}, "meter"),
    ],
)
def test_a_rule_for_a_group_finds_its_subjects_alone(
    north: FleetGroup, condition: Condition, numbers: dict[str, Any], kind: str
) -> None:
    rule = only(condition, **numbers)
    find, now = SEARCHES[condition].find, timezone.now() + timedelta(seconds=1)
    if condition == Condition.SILENT_CONCENTRATOR:
        Uplink.objects.update(received_at=now - timedelta(days=30))
    everywhere = find(rule, [], now)
    rule.group = north
    here = find(rule, [], now)
    assert (everywhere.total, here.total) == (2, 1)
    model: Any = Meter if kind == "meter" else Concentrator
    assert [(one.kind, one.id) for one in here.listed] == [(kind, model.objects.order_by("pk")[0].pk)]


@pytest.mark.parametrize("condition", [c for c in Condition if PARAMETERS[c].may_have_group])
def test_every_condition_of_meters_and_concentrators_takes_a_group(north: FleetGroup, condition: Condition) -> None:
    rule = Rule.objects.filter(condition=condition)[0]
    rule.group = north
    assert SEARCHES[condition].find(rule, [], timezone.now()).total <= 1


def test_the_form_takes_a_group_where_it_means_something(north: FleetGroup) -> None:
    said = {"name": "quiet north", "condition": "silent_concentrator", "period_minutes": 60, "group": "district:north"}
    said |= {"severity": 20, "quiet_minutes": 240, "is_enabled": True}
    form = RuleForm(said)
    assert form.is_valid(), form.errors
    assert form.save(commit=False).group == north
    assert 'value="district:North"' in str(RuleForm(instance=form.instance)["group"])
    wrong = RuleForm({**said, "group": "district:South"})
    assert "There is no group district:South." in str(wrong.errors)
    whole = RuleForm({**said, "condition": "queue_lag"})
    assert "about the whole head-end" in str(whole.errors)
