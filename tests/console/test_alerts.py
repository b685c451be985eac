"""The pages of alerts: what is open, snoozed and over, who may do what about it, rules and channels."""

import re
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import reminders_store, tasks
from ami_headend.alerts.advice import advice
from ami_headend.alerts.models import (
    Alert,
    Channel,
    Condition,
    Conversation,
    Delivery,
    GatheredSubjects,
    Rule,
    SubjectKind,
)
from ami_headend.console.alert_links import links
from ami_headend.signin import roles
from keyvault.models import AuditRecord, SigningSecret
from meters.group_models import FleetGroup
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

NOW = timezone.now()


@pytest.fixture(autouse=True)
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    ids: list[int] = []
    monkeypatch.setattr(tasks.deliver, "apply_async", lambda args, **_: ids.append(args[0]))
    return ids


def alert(condition: Condition = Condition.SILENT_CONCENTRATOR, **changes: Any) -> Alert:
    rule = Rule.objects.filter(condition=condition)[0]
    concentrator = ConcentratorFactory.create()
    values: dict[str, Any] = {
        "severity": rule.severity,
        "subject_kind": SubjectKind.CONCENTRATOR,
        "subject_id": concentrator.pk,
        "subject": concentrator.name,
        "summary": "posted nothing since noon",
        "opened_at": NOW - timedelta(minutes=5),
        "seen_at": NOW,
        **changes,
    }
    return Alert.objects.create(rule=rule, **values)


def do(client: Client, *alerts: Alert, **form: Any) -> str:
    """Posts the form of the list; gives the page that follows."""
    data = {"alert": [one.pk for one in alerts], "minutes": 60, **form}
    return client.post(reverse("admin:alerts"), data, follow=True).content.decode()


def shown(client: Client, state: str = "open") -> str:
    answer = client.get(reverse("admin:alerts"), {"state": state})
    assert answer.status_code == 200
    return answer.content.decode()


def act(channel: Channel, name: str) -> str:
    """The address of an act on a channel's page."""
    return reverse(f"admin:alerts_channel_{name}", args=[channel.pk])


class TestList:
    def test_what_is_open_stands_apart_from_what_was_put_off_and_what_is_over(self) -> None:
        now = timezone.now()
        open_, snoozed, over = (
            alert(),
            alert(snoozed_until=now + timedelta(days=1)),
            alert(resolved_at=now, subject="long gone"),
        )
        client = person(roles.AUDITOR)
        for state, one in (("open", open_), ("snoozed", snoozed), ("ended", over)):
            text = shown(client, state)
            assert one.subject in text
            assert reverse("admin:alert", args=[one.pk]) in text
            assert not [other for other in (open_, snoozed, over) if other != one and other.subject in text]
        assert 'name="alert"' not in text

    def test_who_may_not_see_alerts_does_not(self, client: Client) -> None:
        assert client.get(reverse("admin:alerts")).status_code == 302
        from django.contrib.auth.models import User  # noqa: PLC0415

        client.force_login(User.objects.create_user("nobody", is_staff=True))
        assert client.get(reverse("admin:alerts")).status_code == 403

    def test_many_are_acknowledged_at_once_with_a_note(self) -> None:
        first, second, other = alert(), alert(), alert()
        text = do(person(roles.OPERATOR), first, second, do="acknowledge", note="on my way")
        assert "2 alerts acknowledged." in text
        assert [one.acknowledged_by for one in Alert.objects.order_by("pk")] == ["operator-0", "operator-0", ""]
        assert list(first.steps.values_list("step", "note")) == [("acknowledged", "on my way")]
        assert other.steps.count() == 0

    def test_put_off_and_taken_up_again(self) -> None:
        client, one = person(roles.OPERATOR), alert()
        assert "1 alert snoozed." in do(client, one, do="snooze", minutes=1440)
        assert one.subject in shown(client, "snoozed")
        assert "1 alert taken out of the snooze." in do(client, one, do="wake", state="snoozed")
        assert one.subject in shown(client)

    def test_the_filters_stay(self) -> None:
        one, client = alert(), person(roles.OPERATOR)
        FleetGroup.objects.create(kind="district", name="North")
        where = {"state": "open", "rule": str(one.rule_id), "group": "district:North"}
        page = client.get(reverse("admin:alerts"), where).content.decode()
        form = page[page.index(f'<form method="post" action="{reverse("admin:alerts")}"') :]
        sent = dict(re.findall(r'<input type="hidden" name="(state|rule|group)" value="([^"]*)">', form))
        assert sent == where
        answer = client.post(reverse("admin:alerts"), {**sent, "alert": one.pk, "do": "acknowledge"})
        assert parse_qs(urlsplit(answer["Location"]).query) == {name: [value] for name, value in where.items()}

    @pytest.mark.parametrize(
        ("form", "said"),
        [
            ({"do": "acknowledge", "note": "x" * 2000}, "at most 950"),
            ({"do": "snooze", "minutes": "7"}, "not one of the available choices"),
            ({"do": "explode"}, "Choose what to do."),
            ({}, "Choose what to do."),
            ({"do": "acknowledge", "alert": []}, "No alert was chosen."),
            ({"do": "acknowledge", "alert": ["x", "-1", "9" * 30]}, "No alert was chosen."),
            ({"do": "acknowledge", "alert": ["999999"]}, "No alert was left to be acknowledged."),
        ],
    )
    def test_bad_input_is_said(self, form: dict[str, Any], said: str) -> None:
        one = alert()
        assert said in do(person(roles.OPERATOR), one, **form)
        assert one.steps.count() == 0

    def test_an_auditor_looks_and_does_nothing(self) -> None:
        client, one = person(roles.AUDITOR), alert()
        for name, args in (("admin:alerts", []), ("admin:alert", [one.pk])):
            assert 'name="do"' not in client.get(reverse(name, args=args)).content.decode()
            assert client.post(reverse(name, args=args), {"do": "acknowledge", "minutes": 60}).status_code == 403

    def test_it_says_when_nobody_looks(self) -> None:
        client = person(roles.OPERATOR)
        assert "beat or the workers are not running" in shown(client)
        Rule.objects.update(evaluated_at=timezone.now())
        assert "beat or the workers are not running" not in shown(client)
        Rule.objects.filter(condition=Condition.AUDIT_BROKEN).update(last_error="no")
        assert "1 rule cannot be evaluated" in shown(client)

    def test_history_goes_on_after_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ami_headend.console.alerts.ROWS", 2)
        for n in range(5):
            alert(resolved_at=NOW, subject=f"number {n} of five")
        client, found, page = person(roles.OPERATOR), [], shown(person(roles.AUDITOR), "ended")
        for _ in range(5):
            found += re.findall(r">(number \d of five)<", page)
            following = re.search(r'href="(\?state=ended&amp;after=[^"]*)"', page)
            if following is None:
                break
            page = client.get(reverse("admin:alerts") + following[1].replace("&amp;", "&")).content.decode()
        assert found == [f"number {n} of five" for n in (4, 3, 2, 1, 0)]
        for wrong in ("x", "2026-01-01~1", "2026-01-01T00:00:00+00:00~" + "9" * 30, "~"):
            assert client.get(reverse("admin:alerts"), {"state": "ended", "after": wrong}).status_code == 200

    def test_the_cost_is_the_same_however_many(self) -> None:
        client = person(roles.OPERATOR)
        alert()
        shown(client)
        with counting() as statements:
            shown(client)
            few = statements.take()
            for _ in range(30):
                alert()
            statements.take()
            shown(client)
        assert len(statements) == len(few) <= 12, [*statements]


class TestAlert:
    @pytest.mark.parametrize("condition", list(Condition))
    def test_each_says_what_to_do_and_leads_to_pages_that_there_are(
        self, condition: Condition, admin_client: Client
    ) -> None:
        followed = set()
        for is_one in (True, False):
            about = {"subject_kind": "fleet", "subject_id": 0} if not is_one else {}
            if condition in (Condition.SILENT_METER, Condition.KIND_SEEN, Condition.METER_EVENT) and is_one:
                meter = MeterFactory.create()
                about = {"subject_kind": "meter", "subject_id": meter.pk, "subject": meter.serial_number}
            one = alert(condition, **about)
            answer = admin_client.get(reverse("admin:alert", args=[one.pk]))
            assert answer.status_code == 200
            text = answer.content.decode()
            assert len(advice(one.rule).steps) >= 2
            assert one.summary in text
            for link in links(one):
                assert link.url.replace("&", "&amp;") in text
                followed.add(link.url)
        for url in followed:
            assert admin_client.get(url).status_code == 200, url

    def test_links_are_for_those_who_may_follow_them(self) -> None:
        one = alert()
        text = person(roles.KEY_OFFICER).get(reverse("admin:alert", args=[one.pk])).content.decode()
        assert "/admin/concentrators/" in text
        assert "concentrators/uplink/" not in text

    def test_its_history_and_what_was_sent(self) -> None:
        one = alert()
        channel = Channel.objects.create(name="duty", kind="email", address="a@b.example")
        now = timezone.now()
        for state in ({"delivered_at": now}, {"given_up_at": now, "last_error": "who?"}, {"attempts": 2}, {}):
            Delivery.objects.create(
                channel=channel, alert=one, event="alert.opened", body={}, created_at=now, due_at=now, **state
            )
        client = person(roles.ADMINISTRATOR)
        page = reverse("admin:alert", args=[one.pk])
        client.post(page, {"do": "note", "note": "asked <b>them</b>", "minutes": 60})
        client.post(page, {"do": "acknowledge", "minutes": 60})
        text = client.get(page).content.decode()
        for said in (
            "asked &lt;b&gt;them&lt;/b&gt;",
            "acknowledged",
            "delivered",
            "given up",
            "who?",
            "2 attempts",
            "duty",
        ):
            assert said in text
        assert "duty" not in person(roles.OPERATOR).get(page).content.decode()

    @pytest.mark.parametrize("condition", [Condition.SILENT_METER, Condition.METER_EVENT, Condition.KIND_SEEN])
    def test_of_very_many_it_leads_to_its_own_subjects_and_their_file(self, condition: Condition) -> None:
        meters = MeterFactory.create_batch(60)
        MeterFactory.create(serial_number="NOT-ONE-OF-THEM")
        one = alert(condition, subject_kind=SubjectKind.FLEET, subject_id=0, subject="60 meters", subjects=60)
        GatheredSubjects.objects.create(alert=one, kind=SubjectKind.METER, ids=[meter.pk for meter in meters])
        client = person(roles.OPERATOR)
        listed = reverse("admin:alert-subjects", args=[one.pk])
        assert listed in client.get(reverse("admin:alert", args=[one.pk])).content.decode()
        assert all(client.get(link.url).status_code == 200 for link in links(one))
        first = client.get(listed)
        second = client.get(listed + first.context["next_page"])
        shown = first.content.decode() + second.content.decode()
        assert all(meter.serial_number in shown for meter in meters)
        assert "NOT-ONE-OF-THEM" not in shown
        file = b"".join(client.get(reverse("admin:alert-subjects-export", args=[one.pk]))).decode().splitlines()
        assert len(file) == 61
        assert meters[0].serial_number in file[1]
        assert client.get(listed, {"after": "~"}).status_code == 200
        assert client.get(listed, {"search": meters[5].serial_number}).content.decode().count("/admin/meters/") >= 1

    def test_concentrators_too_and_only_for_those_who_may_see_them(self) -> None:
        those = ConcentratorFactory.create_batch(3)
        one = alert(subject_kind=SubjectKind.FLEET, subject_id=0, subject="3 concentrators", subjects=3)
        listed = reverse("admin:alert-subjects", args=[one.pk])
        assert person(roles.OPERATOR).get(listed).status_code == 404
        GatheredSubjects.objects.create(alert=one, kind=SubjectKind.CONCENTRATOR, ids=[row.pk for row in those])
        text = person(roles.OPERATOR).get(listed).content.decode()
        assert all(row.name in text for row in those)
        user = User.objects.create_user("sees alerts alone", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_alert"))
        client = Client()
        client.force_login(user)
        assert client.get(listed).status_code == 403
        assert client.get(f"{listed}export/").status_code == 403

    def test_one_that_is_over_has_nothing_to_do_and_one_that_is_not_is_no_page(self) -> None:
        client = person(roles.OPERATOR)
        over = alert(resolved_at=timezone.now())
        assert 'name="do"' not in client.get(reverse("admin:alert", args=[over.pk])).content.decode()
        assert client.get(reverse("admin:alert", args=[over.pk + 1])).status_code == 404


class TestRules:
    def page(self, condition: Condition) -> tuple[str, dict[str, Any]]:
        rule = Rule.objects.filter(condition=condition)[0]
        values = {name: getattr(rule, name) for name in ("name", "severity", "quiet_minutes")} | {"is_enabled": "on"}
        for name in ("selector", "threshold", "period_minutes"):
            if getattr(rule, name) not in (None, ""):
                values[name] = getattr(rule, name)
        return reverse("admin:alerts_rule_change", args=[rule.pk]), values

    def test_only_the_numbers_of_its_condition_are_asked_for(self) -> None:
        client = person(roles.ADMINISTRATOR)
        for condition in Condition:
            page, values = self.page(condition)
            text = client.get(page).content.decode()
            assert {name for name in ("selector", "threshold", "period_minutes") if f'name="{name}"' in text} == (
                set(values) & {"selector", "threshold", "period_minutes"}
            ), condition
            assert client.post(page, values).status_code == 302, condition

    def test_a_changed_threshold_is_recorded_and_looked_at_at_once(self) -> None:
        page, values = self.page(Condition.FAILURE_RATE)
        Rule.objects.update(evaluated_at=timezone.now())
        assert person(roles.ADMINISTRATOR).post(page, {**values, "threshold": "25"}).status_code == 302
        rule = Rule.objects.get(condition=Condition.FAILURE_RATE)
        assert (rule.threshold, rule.evaluated_at) == (25, None)
        record = AuditRecord.objects.get()
        assert (record.act, record.subject["threshold"], record.actor) == ("alert_rule.change", 25, "administrator-0")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"threshold": ""}, "needs a number here"),
            ({"threshold": "0"}, "above 0 and at most 100"),
            ({"threshold": "101"}, "above 0 and at most 100"),
            ({"threshold": "nan"}, "Enter a number"),
            ({"period_minutes": "99999999"}, "above 0 and at most 43,200"),
            ({"period_minutes": "-1"}, "greater than or equal to 0"),
        ],
    )
    def test_numbers_that_make_no_sense_are_refused(self, changes: dict[str, str], said: str) -> None:
        page, values = self.page(Condition.FAILURE_RATE)
        answer = person(roles.ADMINISTRATOR).post(page, {**values, **changes})
        assert said in answer.content.decode()
        assert not AuditRecord.objects.exists()

    def test_another_rule_for_another_kind(self) -> None:
        client, page = person(roles.ADMINISTRATOR), reverse("admin:alerts_rule_add")
        form = {"name": "Replays", "condition": "kind_seen", "threshold": 3, "period_minutes": 60, "severity": 20}
        form |= {"quiet_minutes": 60, "is_enabled": "on"}
        assert "one of: malformed" in client.post(page, form).content.decode()
        assert client.post(page, {**form, "selector": "replayed"}).status_code == 302
        assert Rule.objects.get(name="Replays").selector == "replayed"
        assert client.post(
            reverse("admin:alerts_rule_delete", args=[Rule.objects.get(name="Replays").pk]), {"post": "yes"}
        )
        assert not Rule.objects.filter(name="Replays").exists()

    def test_switched_off_it_ends_its_alerts(
        self, django_capture_on_commit_callbacks: Any, enqueued: list[int]
    ) -> None:
        channel = Channel.objects.create(name="duty", kind="email", address="a@b.example")
        one = alert()
        Conversation.objects.create(alert=one, channel=channel, recipient="a@b.example", word="open")
        page, values = self.page(Condition.SILENT_CONCENTRATOR)
        del values["is_enabled"]
        with django_capture_on_commit_callbacks(execute=True):
            assert person(roles.ADMINISTRATOR).post(page, values).status_code == 302
        one.refresh_from_db()
        assert one.resolved_at is not None
        assert enqueued == [channel.pk]

    def test_one_that_raised_an_alert_is_not_deleted(self) -> None:
        one = alert()
        answer = person(roles.ADMINISTRATOR).post(
            reverse("admin:alerts_rule_delete", args=[one.rule_id]), {"post": "yes"}
        )
        assert answer.status_code in (200, 403)
        assert Rule.objects.filter(pk=one.rule_id).exists()

    def test_others_look_only(self) -> None:
        page, values = self.page(Condition.FAILURE_RATE)
        for role in (roles.OPERATOR, roles.KEY_OFFICER, roles.AUDITOR):
            client = person(role)
            assert client.get(page).status_code == 200
            assert client.post(page, values).status_code == 403

    def test_where_it_cannot_be_recorded_nothing_is_changed(self, settings: Settings, tmp_path: Any) -> None:
        page, values = self.page(Condition.FAILURE_RATE)
        client = person(roles.ADMINISTRATOR)
        settings.MASTER_KEY_FILE = tmp_path / "gone"
        text = client.post(page, {**values, "threshold": "25"}, follow=True).content.decode()
        assert "Nothing was changed, because it could not be recorded" in text
        assert Rule.objects.get(condition=Condition.FAILURE_RATE).threshold == 10


class TestFilters:
    def test_the_tab_is_kept_by_the_form_and_its_clear(self, admin_client: Client) -> None:
        """What the browser would send with "Show" is what the form has: its hidden fields and its filters."""
        page, form_of = reverse("admin:alerts"), re.compile(r'<form method="get" novalidate>.*?</form>', re.DOTALL)
        text = admin_client.get(page, {"state": "ended"}).content.decode()
        [form] = form_of.findall(text)
        assert '<input type="hidden" name="state" value="ended">' in form
        assert f'href="{page}?state=ended"' in form
        assert 'class="console-filters">' in text  # a tab is no filter: they stay folded
        [form] = form_of.findall(admin_client.get(page).content.decode())
        assert "hidden" not in form

    def test_an_order_is_kept_too(self, admin_client: Client) -> None:
        text = admin_client.get(reverse("admin:concentrators"), {"sort": "-name"}).content.decode()
        assert '<input type="hidden" name="sort" value="-name">' in text


class TestChannels:
    form = {"name": "duty", "kind": "webhook", "address": "https://hooks.example/x", "least_severity": 20}

    def made(self, client: Client) -> str:
        answer = client.post(reverse("admin:alerts_channel_add"), {**self.form, "is_enabled": "on"})
        assert answer.status_code == 200
        assert "no-store" in answer.headers["Cache-Control"]
        found = re.search(r"whsec_[A-Za-z0-9+/=]{44}", unescape(answer.content.decode()))
        assert found is not None
        return found[0]

    def test_its_secret_is_shown_once(self) -> None:
        client = person(roles.ADMINISTRATOR)
        secret = self.made(client)
        channel = Channel.objects.get()
        for page in ("admin:alerts_channel_changelist", "admin:alerts_channel_change", "admin:alerts_channel_history"):
            args = [] if page.endswith("list") else [channel.pk]
            assert secret not in client.get(reverse(page, args=args)).content.decode()
        assert SigningSecret.objects.count() == 1
        rotate = act(channel, "rotate_secret")
        assert client.get(rotate).status_code == 200
        text = client.post(rotate).content.decode()
        assert secret not in text
        assert re.search(r"whsec_[A-Za-z0-9+/=]{44}", text)
        acts = list(AuditRecord.objects.order_by("number").values_list("act", flat=True))
        assert acts == ["alert_channel.create", "alert_channel.rotate_secret"]

    def test_a_test_is_sent_and_what_becomes_of_it_is_seen(self, enqueued: list[int]) -> None:
        client = person(roles.ADMINISTRATOR)
        self.made(client)
        channel = Channel.objects.get()
        test = act(channel, "send_test")
        assert client.get(test).status_code == 200
        assert client.post(test).status_code == 302
        assert enqueued == [channel.pk]
        Delivery.objects.update(attempts=1, last_error="ConnectError: no")
        page = client.get(reverse("admin:alerts_channel_change", args=[channel.pk])).content.decode()
        assert "ConnectError: no (1 attempt)" in page
        listed = client.get(act(channel, "show_deliveries"), follow=True).content.decode()
        assert "test" in listed

    def test_one_is_switched_off_though_its_address_is_refused_by_now(self, settings: Settings) -> None:
        client = person(roles.ADMINISTRATOR)
        self.made(client)
        channel = Channel.objects.get()
        settings.WEBHOOK_ALLOW_HTTP = False
        Channel.objects.update(address="http://hooks.example/")
        page = reverse("admin:alerts_channel_change", args=[channel.pk])
        body = {"name": channel.name, "address": "http://hooks.example/", "least_severity": channel.least_severity}
        for refused in ({"is_enabled": "on"}, {"address": "http://other.example/"}):
            assert "must begin with https" in client.post(page, {**body, **refused}).content.decode()
        assert client.post(page, body).status_code == 302
        assert Channel.objects.get().is_enabled is False

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"address": "http://hooks.example/"}, "must begin with https"),
            ({"address": "https://169.254.169.254/"}, "WEBHOOK_REFUSED_NETWORKS"),
            ({"address": "https://u:p@hooks.example/"}, "must not contain a user name or password"),
            ({"kind": "email", "address": "somebody"}, "is not an e-mail address"),
            ({"kind": "email", "address": ",".join(["a@b.example"] * 21)}, "At most 20 addresses"),
            ({"address": ""}, "required"),
        ],
    )
    def test_where_messages_must_not_go(self, changes: dict[str, str], said: str) -> None:
        answer = person(roles.ADMINISTRATOR).post(reverse("admin:alerts_channel_add"), {**self.form, **changes})
        assert said in answer.content.decode()
        assert not Channel.objects.exists()

    def test_mail_has_no_secret(self) -> None:
        client = person(roles.ADMINISTRATOR)
        form = {**self.form, "kind": "email", "address": "a@b.example , c@d.example"}
        assert client.post(reverse("admin:alerts_channel_add"), form).status_code == 302
        channel = Channel.objects.get()
        assert channel.address == "a@b.example, c@d.example"
        answer = client.post(act(channel, "rotate_secret"), follow=True)
        assert "this channel has no secret" in answer.content.decode()

    def test_deleted_with_its_secret(self) -> None:
        client = person(roles.ADMINISTRATOR)
        self.made(client)
        channel = Channel.objects.get()
        about = alert()
        reminders_store.settle_all(reminders_store.locked([about.pk]), NOW)
        page = reverse("admin:alerts_channel_delete", args=[channel.pk])
        assert "Are you sure" in client.get(page).content.decode()
        assert client.post(page, {"post": "yes"}).status_code == 302
        assert not Channel.objects.exists()
        assert not SigningSecret.objects.exists()
        assert Delivery.objects.get().channel_name == channel.name
        for listed in (reverse("admin:alerts_delivery_changelist"), reverse("admin:alert", args=[about.pk])):
            assert f"{channel.name} (removed)" in client.get(listed).content.decode()

    @pytest.mark.parametrize("name", ["duty\n2026-11-29 INFO audit head 7:00", "duty\x1b[2J", "duty\u202egnp.exe"])
    def test_its_name_is_one_line_that_prints(self, name: str) -> None:
        answer = person(roles.ADMINISTRATOR).post(reverse("admin:alerts_channel_add"), {**self.form, "name": name})
        assert "A name is one line of printable characters" in answer.content.decode()
        assert not Channel.objects.exists()

    def test_operators_do_not_see_channels(self) -> None:
        Channel.objects.create(name="duty", kind="webhook", address="https://hooks.example/secret-path")
        for role in (roles.OPERATOR, roles.KEY_OFFICER):
            assert person(role).get(reverse("admin:alerts_channel_changelist")).status_code == 403
        auditor = person(roles.AUDITOR)
        assert auditor.get(reverse("admin:alerts_channel_changelist")).status_code == 200
        channel = Channel.objects.get()
        for name in ("rotate_secret", "send_test"):
            assert auditor.post(act(channel, name)).status_code == 403
        assert not Delivery.objects.exists()
