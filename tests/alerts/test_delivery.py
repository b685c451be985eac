"""Messages go out signed, at least once, later each time, and not to where they must not."""

import json
import smtplib
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.conf import settings as configured
from django.core import mail
from django.core.mail import EmailMessage
from django.db import OperationalError
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from pytest_django import Settings

from ami_headend.alerts import channels, delivery, notices, reminders_store, tasks, webhooks
from ami_headend.alerts.models import Alert, Channel, Condition, Conversation, Delivery, Rule
from ami_headend.core import webhook_exchange
from ami_headend.core.refused_addresses import RefusedAddressError
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord, SigningSecret
from tests.alerts.receiver import Receiver, kept_place, receiving
from tests.flows.stack import free_port

pytestmark = pytest.mark.django_db

ANN = Actor("ann", "192.0.2.7")
REFUSED_BY_DEFAULT = list(configured.WEBHOOK_REFUSED_NETWORKS)


@pytest.fixture(autouse=True)
def _loopback(settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_HTTP = True
    settings.WEBHOOK_REFUSED_NETWORKS = ["169.254.0.0/16"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def webhook(receiver: Receiver, name: str = "duty") -> Channel:
    channel = Channel(name=name, kind="webhook", address=receiver.url)
    receiver.secret = channels.save(channel, ANN, timezone.now()) or ""
    return channel


def alert(**changes: Any) -> Alert:
    now = timezone.now()
    values = {"severity": 20, "subject_kind": "concentrator", "subject_id": 17, "subject": "DCU-17"}
    values |= {"summary": "posted nothing since noon", "opened_at": now, "seen_at": now, **changes}
    return Alert.objects.create(rule=Rule.objects.get(condition=Condition.SILENT_CONCENTRATOR), **values)


def tell(*alerts: Alert) -> set[int]:
    """Writes what receivers are to know of alerts as they stand; gives the channels that have messages."""
    return reminders_store.settle_all(reminders_store.locked([one.pk for one in alerts]), timezone.now())


def end(row: Alert) -> Alert:
    row.resolved_at = timezone.now()
    row.save()
    return row


def make_due() -> None:
    Delivery.objects.filter(delivered_at=None).update(due_at=timezone.now())


class TestWebhooks:
    def test_it_arrives_signed_and_says_what_is_documented(self, receiver: Receiver, settings: Settings) -> None:
        settings.PUBLIC_URL = "https://headend.example"
        channel = webhook(receiver)
        opened = alert()
        assert tell(opened) == {channel.pk}
        assert delivery.deliver_for(channel.pk, 5) is False
        (message,) = receiver.messages
        assert set(message) == {"type", "timestamp", "data"}
        assert message["type"] == "alert.opened"
        assert message["data"] == {
            "id": opened.pk,
            "rule": "Concentrator is silent",
            "condition": "silent_concentrator",
            "severity": "warning",
            "subject": {"kind": "concentrator", "id": 17, "name": "DCU-17"},
            "subjects": 1,
            "summary": "posted nothing since noon",
            "opened_at": opened.opened_at.isoformat(),
            "resolved_at": None,
            "url": f"https://headend.example/admin/alerts/{opened.pk}/",
        }
        assert receiver.headers[0]["path"] == "/hooks/ami?x=1"
        assert receiver.headers[0]["host"] == f"127.0.0.1:{receiver.port}"
        assert Delivery.objects.get().delivered_at is not None
        assert receiver.forged == 0

    def test_with_another_secret_it_is_not_believed(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        webhook(receiver, "another, with its own secret")
        notices.test(channel, "ann", timezone.now())
        delivery.deliver_for(channel.pk, 5)
        assert (receiver.forged, receiver.messages) == (1, [])
        assert Delivery.objects.get().last_error == "the receiver answered 401"

    def test_a_secret_is_made_anew_while_messages_go_on(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        old = receiver.secret
        new = channels.rotate_secret(channel, ANN, timezone.now())
        for secret in (old, new):
            receiver.secret = secret
            notices.test(channel, "ann", timezone.now())
            delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["test", "test"]
        acts = list(AuditRecord.objects.order_by("number").values_list("act", flat=True))
        assert acts == ["alert_channel.create", "alert_channel.rotate_secret"]
        told = json.dumps(list(AuditRecord.objects.values_list("subject", flat=True)))
        assert "whsec" not in told
        assert "/hooks" not in told

    def test_refused_and_failed_are_tried_again_later_each_time(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        receiver.answers = [500, 400, 307]
        notices.test(channel, "ann", timezone.now())
        waits = []
        for _ in range(3):
            make_due()
            before = timezone.now()
            delivery.deliver_for(channel.pk, 5)
            row = Delivery.objects.get()
            assert row.delivered_at is None
            waits.append((row.due_at - before).total_seconds())
        assert row.last_error == "the receiver answered 307"  # no redirect is followed
        assert [10 < waits[0] < 20, 22 < waits[1] < 40, 45 < waits[2] < 80] == [True] * 3
        make_due()
        delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["test"]
        assert len(set(receiver.ids)) == 1  # one message, however often
        assert Delivery.objects.get().attempts == 4

    def test_a_receiver_that_is_down_puts_off_all_that_waits_for_it(self) -> None:
        with kept_place() as place:
            receiver = Receiver(place.getsockname()[1])
            channel = webhook(receiver)
            tell(alert(subject_id=1), alert(subject_id=2))
            delivery.deliver_for(channel.pk, 5)
            first, second = Delivery.objects.order_by("pk")
            assert (first.attempts, second.attempts) == (1, 0)
            assert first.due_at == second.due_at > timezone.now()
            assert first.last_error == webhook_exchange.NO_ANSWER
            make_due()
            with receiving(place) as back:
                back.secret = receiver.secret
                delivery.deliver_for(channel.pk, 5)
                assert [message["data"]["subject"]["id"] for message in back.messages] == [1, 2]  # in their order

    def test_one_message_that_is_refused_holds_up_no_other(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        receiver.answers = [400]
        notices.test(channel, "ann", timezone.now())
        tell(alert())
        delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["alert.opened"]

    def test_after_a_day_it_is_given_up(self, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
        channel = webhook(receiver)
        receiver.answers = [500]
        notices.test(channel, "ann", timezone.now() - timedelta(hours=24))
        delivery.deliver_for(channel.pk, 5)
        assert Delivery.objects.get().given_up_at is not None
        assert "given up after 1 attempt: the receiver answered 500" in caplog.text
        delivery.deliver_for(channel.pk, 5)
        assert receiver.messages == []
        assert delivery.purge(timezone.now() + timedelta(days=91)) == 1

    def test_a_channel_that_was_switched_off_sends_only_tests(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        tell(alert())
        notices.test(channel, "ann", timezone.now())
        channel.is_enabled = False
        channels.save(channel, ANN, timezone.now())
        delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["test"]

    def test_what_cannot_be_signed_waits(self, receiver: Receiver, settings: Settings, tmp_path: Path) -> None:
        channel = webhook(receiver)
        notices.test(channel, "ann", timezone.now())
        there, settings.MASTER_KEY_FILE = settings.MASTER_KEY_FILE, tmp_path / "gone"
        delivery.deliver_for(channel.pk, 5)
        assert "gone" in Delivery.objects.get().last_error
        settings.MASTER_KEY_FILE = there
        make_due()
        delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["test"]

    def test_it_goes_with_its_secret(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        assert SigningSecret.objects.count() == 1
        channels.delete(channel, ANN, timezone.now())
        assert not SigningSecret.objects.exists()

    def test_what_it_sent_stays_and_what_it_did_not_is_given_up(self, receiver: Receiver) -> None:
        channel = webhook(receiver)
        tell(alert())
        delivery.deliver_for(channel.pk, 5)
        notices.test(channel, "ann", timezone.now())
        channels.delete(channel, ANN, timezone.now())
        sent, waiting = Delivery.objects.order_by("pk")
        assert (sent.channel, sent.channel_name, sent.delivered_at is not None) == (None, "duty", True)
        assert (waiting.delivered_at, waiting.last_error) == (None, "the channel was removed")
        assert delivery.overdue_channels(timezone.now()) == []

    def test_one_that_was_away_for_days_is_told_what_is_true_then(self, receiver: Receiver) -> None:
        """Neither given up after a day nor told what is over: its last word is the truth."""
        channel = webhook(receiver)
        receiver.answers = [500]
        row = alert()
        tell(row)
        delivery.deliver_for(channel.pk, 5)
        Delivery.objects.update(created_at=timezone.now() - timedelta(days=3))
        tell(end(row))
        delivery.deliver_for(channel.pk, 5)
        assert receiver.types == ["alert.resolved"]
        assert Delivery.objects.earliest("pk").given_up_at is not None


class TestWhereTo:
    @pytest.mark.parametrize(
        "address",
        [
            "https://169.254.169.254/latest/meta-data/",
            "https://[::ffff:169.254.169.254]/",
            "https://127.0.0.1:6379/",
            "https://127.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[fe80::1]/",
            "https://0.0.0.0/",
            "https://localhost:8000/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[64:ff9b::7f00:1]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[64:ff9b:1::a9fe:a9fe]/",
            "https://[64:ff9b:1:a9fe:a9:fe00::]/",
            "https://[2002:7f00:1::]/",
            "https://[2002:a9fe:a9fe::1]/",
            "https://[2001:0:a9fe:a9fe::]/",
            "https://[2001:0:1::5601:5601]/",
            "https://[::a9fe:a9fe]/",
            "https://[::ffff:0:a9fe:a9fe]/",
            "https://[2001:db8::5efe:a9fe:a9fe]/",
            "https://[2001:db8::200:5efe:7f00:1]/",
            "https://0x7f.1/",
            "https://[fd00:ec2::254]/",
            "https://168.63.129.16/",
        ],
    )
    def test_not_to_this_machine_its_link_or_metadata(self, address: str, settings: Settings) -> None:
        settings.WEBHOOK_REFUSED_NETWORKS = REFUSED_BY_DEFAULT
        channel = Channel(name="inside", kind="webhook", address=address)
        channels.save(channel, ANN, timezone.now())
        with pytest.raises(RefusedAddressError, match="WEBHOOK_REFUSED_NETWORKS"):
            webhooks.post(channel, "msg_1", {}, timezone.now())

    def test_every_address_of_a_name_is_checked(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.WEBHOOK_REFUSED_NETWORKS = REFUSED_BY_DEFAULT
        found = [(2, 1, 6, "", (address, 443)) for address in ("192.0.2.1", "169.254.169.254")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        channel = Channel(name="two", kind="webhook", address="https://two.example/")
        channels.save(channel, ANN, timezone.now())
        with pytest.raises(RefusedAddressError, match="WEBHOOK_REFUSED_NETWORKS"):
            webhooks.post(channel, "msg_1", {}, timezone.now())

    @pytest.mark.parametrize("address", ["2001:db8::1", "64:ff9b::808:808", "2002:808:808::1", "8.8.8.8", "10.1.2.3"])
    def test_what_leads_elsewhere_is_let_through(self, address: str, settings: Settings) -> None:
        settings.WEBHOOK_REFUSED_NETWORKS = REFUSED_BY_DEFAULT
        webhook_exchange.check_url(f"https://[{address}]/" if ":" in address else f"https://{address}/")

    def test_pages_do_not_say_whether_something_listens(
        self, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Closed, open without TLS, and no such name: one text; what it was stands in the log."""
        said = set()
        for address in (
            f"https://127.0.0.1:{receiver.port}/",
            f"http://127.0.0.1:{free_port()}/",
            "https://a.invalid/",
        ):
            channel = Channel(name=address, kind="webhook", address=address)
            channels.save(channel, ANN, timezone.now())
            notices.test(channel, "ann", timezone.now())
            delivery.deliver_for(channel.pk, 5)
            said.add(Delivery.objects.get(channel=channel).last_error)
        assert said == {webhook_exchange.NO_ANSWER}
        for detail in ("ConnectionRefusedError", "SSLError", "gaierror"):
            assert detail in caplog.text

    @pytest.mark.parametrize(
        ("address", "says"),
        [
            ("http://a.example/", "must begin with https"),
            ("ftp://a.example/", "must begin with https"),
            ("file:///etc/passwd", "must begin with https"),
            ("a.example", "must begin with https"),
            ("https:///path", "has no host"),
            ("https://ann:secret@a.example/", "must not contain a user name"),
            ("https://a.example:99999999/", "port is not possible"),
            ("https://a.example:nothing/", "is not an address"),
        ],
    )
    def test_only_https_with_a_host_and_no_password(self, address: str, says: str, settings: Settings) -> None:
        settings.WEBHOOK_ALLOW_HTTP = False
        with pytest.raises(RefusedAddressError, match=says):
            webhook_exchange.check_url(address)

    def test_a_name_is_looked_up_once_and_the_checked_address_is_where_it_goes(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name server that answers another address the second time gains nothing."""
        answers = [[(2, 1, 6, "", ("127.0.0.1", receiver.port))]]
        real = socket.getaddrinfo

        def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
            return answers.pop() if host == "hooks.example" else real(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        channel = webhook(receiver)
        channel.address = f"http://hooks.example:{receiver.port}/x"
        webhooks.post(channel, "msg_1", {"type": "test"}, timezone.now())
        assert receiver.types == ["test"]
        assert receiver.headers[0]["host"] == f"hooks.example:{receiver.port}"
        assert answers == []

    def test_over_tls_the_certificate_must_be_of_the_name(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str | None] = []

        def noting(self: ssl.SSLContext, *args: Any, server_hostname: str | None = None, **kwargs: Any) -> Any:
            seen.append(server_hostname)
            raise ssl.SSLError("enough seen")

        found = [(2, 1, 6, "", ("127.0.0.1", receiver.port))]
        channel = webhook(receiver)
        channel.address = f"https://hooks.example:{receiver.port}/x"
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", noting)
        with pytest.raises(webhook_exchange.WebhookError):
            webhooks.post(channel, "msg_1", {}, timezone.now())
        assert seen == ["hooks.example"]


class TestEmail:
    @pytest.fixture
    def channel(self, settings: Settings) -> Channel:
        settings.EMAIL_URL = "smtp://mail.example"
        channel = Channel(name="post", kind="email", address="ann@a.example, bob@b.example")
        assert channels.save(channel, ANN, timezone.now()) is None
        return channel

    def test_an_alert_and_its_end(self, channel: Channel, settings: Settings) -> None:
        settings.PUBLIC_URL = "https://headend.example"
        row = alert(subject="DCU\n17")
        for of in (row, row, end):
            tell(end(row) if of is end else row)
            delivery.deliver_for(channel.pk, 5)
            Conversation.objects.update(disturbed_at=timezone.now() - timedelta(hours=12))
        notices.test(channel, "ann", timezone.now())
        delivery.deliver_for(channel.pk, 5)
        assert [message.subject for message in mail.outbox[::2]] == [
            "[ami-headend] warning: Concentrator is silent: DCU 17",
            "[ami-headend] warning: still: Concentrator is silent: DCU 17",
            "[ami-headend] warning: over: Concentrator is silent: DCU 17",
            "[ami-headend] test",
        ]
        assert [message.to for message in mail.outbox] == [["ann@a.example"], ["bob@b.example"]] * 4
        assert "posted nothing since noon" in mail.outbox[0].body
        assert f"What to do: https://headend.example/admin/alerts/{row.pk}/" in mail.outbox[0].body
        assert "Until " in mail.outbox[4].body

    def test_without_a_mail_server_it_says_so_and_waits(self, channel: Channel, settings: Settings) -> None:
        settings.EMAIL_URL = ""
        notices.test(channel, "ann", timezone.now())
        delivery.deliver_for(channel.pk, 5)
        assert {row.last_error[:20] for row in Delivery.objects.all()} == {"EMAIL_URL is not set", ""}
        assert mail.outbox == []

    def test_who_was_refused_is_tried_again_and_who_has_it_is_not(
        self, channel: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send = EmailMessage.send

        def refuse(self: EmailMessage, *_: Any, **__: Any) -> int:
            if self.to == ["ann@a.example"] and refusing:
                raise smtplib.SMTPRecipientsRefused({"ann@a.example": (450, b"greylisted")})
            return send(self)

        refusing = True
        monkeypatch.setattr(EmailMessage, "send", refuse)
        tell(alert())
        delivery.deliver_for(channel.pk, 5)
        ann, bob = Delivery.objects.order_by("recipient")
        assert (ann.delivered_at, bob.delivered_at is not None) == (None, True)
        assert "greylisted" in ann.last_error
        assert ann.due_at > timezone.now()
        refusing = False
        make_due()
        delivery.deliver_for(channel.pk, 5)
        assert [message.to for message in mail.outbox] == [["bob@b.example"], ["ann@a.example"]]
        assert mail.outbox[1].extra_headers["Message-ID"] == f"<msg_{ann.pk}@localhost>"


class TestTasks:
    def test_the_sweep_finds_what_is_due(self, receiver: Receiver, enqueued: list[int]) -> None:
        channel = webhook(receiver)
        tasks.sweep_deliveries()
        assert enqueued == []
        for _ in range(3):
            notices.test(channel, "ann", timezone.now())
        tasks.sweep_deliveries()
        assert enqueued == [channel.pk]
        tasks.deliver(channel.pk)
        assert receiver.types == ["test"] * 3
        tasks.sweep_deliveries()
        assert enqueued == [channel.pk]

    def test_without_a_broker_nothing_is_lost(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise BrokerError("gone")

        monkeypatch.setattr(tasks.deliver, "apply_async", refuse)
        channel = webhook(receiver)
        notices.test(channel, "ann", timezone.now())
        tasks.sweep_deliveries()
        assert Delivery.objects.filter(delivered_at=None).count() == 1

    def test_a_message_that_was_under_way_when_the_primary_was_lost_holds_up_no_other(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = [OperationalError("server closed the connection"), OperationalError("connection refused")]
        store = delivery._store

        def away_at_first(*args: Any) -> bool:
            if lost:
                raise lost.pop()
            return store(*args)

        channel = webhook(receiver)
        tell(alert(), alert(subject_id=18))
        monkeypatch.setattr(delivery, "_store", away_at_first)
        monkeypatch.setattr(delivery, "_AGAIN_S", 0)
        monkeypatch.setattr(delivery, "close_spoilt_connections", lambda trouble: None)
        tasks.deliver(channel.pk)
        assert (len(receiver.bodies), lost) == (2, [])
        assert not Delivery.objects.filter(delivered_at=None).exists()

    @pytest.mark.parametrize(
        ("error", "lasts_s"), [(OperationalError("connection refused"), -1), (ValueError("ours"), 60)]
    )
    def test_an_outcome_is_not_stored_for_ever(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: Exception, lasts_s: int
    ) -> None:
        channel = webhook(receiver)
        tell(alert())
        monkeypatch.setattr(delivery, "_store", mock.Mock(side_effect=error))
        monkeypatch.setattr(delivery, "_OUTLASTS_S", lasts_s)
        with pytest.raises(type(error)):
            tasks.deliver(channel.pk)

    def test_a_long_queue_gives_way(self, receiver: Receiver, enqueued: list[int]) -> None:
        channel = webhook(receiver)
        for _ in range(3):
            notices.test(channel, "ann", timezone.now())
        assert delivery.deliver_for(channel.pk, 0) is True
        assert len(receiver.messages) == 1

    def test_evaluating_enqueues_what_is_to_be_told(self, receiver: Receiver, enqueued: list[int]) -> None:
        channel = webhook(receiver)
        tasks.evaluate_alerts()
        assert enqueued == []
        Rule.objects.update(evaluated_at=None)
        Rule.objects.exclude(condition=Condition.MASTER_KEY_DOWN).update(is_enabled=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("django.conf.settings.MASTER_KEY_FILE", Path("/nonexistent"))
            tasks.evaluate_alerts()
        assert enqueued == [channel.pk]


def test_free_ports_are_refused_quickly() -> None:
    """Nothing listens there: the receiver is down, which is no error of ours."""
    with receiving() as receiver:
        channel = webhook(receiver)
    channel.address = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(webhook_exchange.WebhookError) as caught:
        webhooks.post(channel, "msg_1", {}, timezone.now())
    assert caught.value.is_down
