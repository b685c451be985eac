"""Alerts by clicking: seen, understood, acknowledged, snoozed; a webhook is made, and its secret shown once."""

import re

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from ami_headend.alerts import evaluation
from ami_headend.alerts.models import Alert, Channel, Conversation, GatheredSubjects, Rule
from ami_headend.signin import roles
from meters.models import Meter
from tests.flows.stack import Stack
from tests.pages.browser import SUPERUSER
from tests.pages.conftest import Visit
from tests.pages.looking import look_at


@pytest.fixture
def alerts(stack: Stack) -> list[Alert]:
    """What the rules find after the simulated attacks."""
    Rule.objects.update(evaluated_at=None)
    Alert.objects.update(acknowledged_at=None, snoozed_until=None)
    evaluation.evaluate(timezone.now())
    found = list(Alert.objects.filter(resolved_at=None))
    assert found
    return found


def test_the_pages_are_sound_with_alerts_on_them(alerts: list[Alert], visit: Visit) -> None:
    page = visit(SUPERUSER)
    assert look_at(page, reverse("admin:alerts")) == []
    assert look_at(page, reverse("admin:alert", args=[alerts[0].pk])) == []
    assert look_at(page, reverse("admin:alerts_rule_change", args=[alerts[0].rule_id])) == []


def test_the_subjects_of_an_alert_for_very_many_are_looked_at_and_exported(stack: Stack, visit: Visit) -> None:
    rule = Rule.objects.get(name="Meter is silent")
    channel = Channel.objects.create(name="by mail", kind="email", address="a@a.example, b@b.example", is_enabled=False)
    now = timezone.now()
    one = Alert.objects.create(
        rule=rule,
        severity=20,
        subject_kind="fleet",
        subject="12 meters",
        subjects=12,
        summary="12 meters at once",
        opened_at=now,
        seen_at=now,
    )
    ids = list(Meter.objects.values_list("pk", flat=True))
    GatheredSubjects.objects.create(alert=one, kind="meter", ids=ids)
    for word, recipient in (("open", "a@a.example"), ("unsure", "b@b.example")):
        Conversation.objects.create(alert=one, channel=channel, recipient=recipient, word=word)
    page = visit(SUPERUSER)
    assert look_at(page, reverse("admin:alert-subjects", args=[one.pk])) == []
    assert look_at(page, reverse("admin:alert", args=[one.pk])) == []
    assert look_at(page, reverse("admin:alerts_channel_delete", args=[channel.pk])) == []
    assert look_at(page, reverse("admin:alerts_delivery_changelist")) == []
    page.goto(reverse("admin:alert", args=[one.pk]))
    page.get_by_role("link", name="The 12 meters").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export all as CSV").click()
    assert len(download.value.path().read_text().splitlines()) == len(ids) + 1
    one.delete()


def test_an_operator_acknowledges_one_and_puts_another_off(alerts: list[Alert], visit: Visit) -> None:
    page = visit(roles.OPERATOR)
    first = alerts[0]
    page.goto(reverse("admin:alerts"))
    page.get_by_label(f"{first.rule.name}: {first.subject}", exact=True).check()
    page.get_by_label("Note").fill("on my way")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("1 alert acknowledged.")).to_be_visible()
    of_it = f'a[href="{reverse("admin:alert", args=[first.pk])}"]'
    page.locator(of_it).click()
    expect(page.get_by_text("on my way")).to_be_visible()
    expect(page.get_by_role("heading", name="What it means, and what to do")).to_be_visible()
    page.get_by_label("Snooze for").select_option("1440")
    page.get_by_role("button", name="Snooze").click()
    expect(page.get_by_text("1 alert snoozed.")).to_be_visible()
    page.goto(reverse("admin:alerts"))
    page.get_by_role("link", name="Snoozed").click()
    expect(page.locator(of_it)).to_be_visible()


def test_an_administrator_makes_a_webhook_and_its_secret_is_shown_once(stack: Stack, visit: Visit) -> None:
    Channel.objects.all().delete()
    page = visit(roles.ADMINISTRATOR)
    page.goto(reverse("admin:alerts_channel_add"))
    page.get_by_label("Name").fill("duty")
    page.locator("[name=kind]").select_option("webhook")
    page.get_by_label("Address").fill("https://hooks.example/ami")
    page.get_by_role("button", name="Save", exact=True).click()
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", secret)
    page.get_by_role("link", name="Done").click()
    expect(page.locator("[name=address]")).to_have_value("https://hooks.example/ami")
    assert secret not in page.content()
    address = reverse("admin:alerts_channel_change", args=[Channel.objects.get().pk])
    assert look_at(page, address) == []
