"""One deadline for a message, from the look-up to the last octet, whatever a receiver or a mail server does."""

import socket
import threading
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import channels, delivery, notices, webhooks
from ami_headend.alerts.models import Channel, Delivery
from ami_headend.core.timed_exchange import ExchangeDeadlineError, exchange
from ami_headend.core.webhook_exchange import NO_ANSWER, WebhookError
from keyvault.audit.chain import Actor
from tests.alerts import drips
from tests.alerts.drips import dripping

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(120, func_only=True)]  # what drips would go on for ever

ANN = Actor("ann", "192.0.2.7")


@pytest.fixture(autouse=True)
def _short(settings: Settings) -> None:
    settings.ALERT_EXCHANGE_S = settings.EMAIL_TIMEOUT = 0.5
    settings.WEBHOOK_ALLOW_HTTP = True
    settings.WEBHOOK_REFUSED_NETWORKS = []


def sent_to(address: str, kind: str = "webhook") -> Delivery:
    channel = Channel(name="slow", kind=kind, address=address)
    channels.save(channel, ANN, timezone.now())
    notices.test(channel, "ann", timezone.now())
    delivery.deliver_for(channel.pk, 0)
    return Delivery.objects.get()


def mailed(port: int, **more: Any) -> Delivery:
    values = {"EMAIL_URL": "smtp://there", "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port, "EMAIL_HOST_USER": ""}
    values |= {"EMAIL_BACKEND": "ami_headend.core.mail.DeadlineEmailBackend", "EMAIL_HOST_PASSWORD": ""}
    with override_settings(**values, **more):
        return sent_to("ann@a.example", "email")


@pytest.mark.parametrize(
    ("text", "quick"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Filler: " + b"a" * 60_000, ()),
        (b"X-Filler: a\r\n", (b"HTTP/1.1 200 OK\r\n",)),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ()),
    ],
    ids=["status line", "headers", "an interim answer after the other"],
)
def test_a_webhook_whose_answer_drips(text: bytes, quick: tuple[bytes, ...]) -> None:
    with dripping(text, quick) as peer:
        row = sent_to(f"http://127.0.0.1:{peer.port}/")
    assert (row.delivered_at, row.attempts, row.last_error) == (None, 1, NO_ANSWER)
    assert row.due_at > timezone.now()


def test_a_webhook_whose_handshake_drips() -> None:
    with dripping(b"\x00", (drips.TLS_RECORD,)) as peer:
        assert sent_to(f"https://127.0.0.1:{peer.port}/").last_error == NO_ANSWER


def test_a_webhook_that_took_it_and_drips_the_body() -> None:
    with dripping(b"a", (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",)) as peer:
        assert sent_to(f"http://127.0.0.1:{peer.port}/").delivered_at is not None


@pytest.mark.parametrize(
    ("text", "quick", "more"),
    [
        (b"220-hello\r\n", (), {}),
        (b"250-more\r\n", drips.SMTP[:1], {}),
        (b"\x00", (*drips.SMTP, drips.TLS_RECORD), {"EMAIL_USE_TLS": True}),
        (b"\x00", (drips.TLS_RECORD,), {"EMAIL_USE_SSL": True}),
        (b"250-more\r\n", drips.MAIL_TAKEN[:-1], {}),
    ],
    ids=["greeting", "capabilities", "STARTTLS", "TLS", "its last word"],
)
def test_a_mail_server_that_drips(text: bytes, quick: tuple[bytes, ...], more: dict[str, Any]) -> None:
    with dripping(text, quick) as peer:
        row = mailed(peer.port, **more)
    assert row.delivered_at is None
    assert "took longer than 0.5 seconds" in row.last_error


def test_a_mail_server_that_took_it_and_drips_its_goodbye() -> None:
    with dripping(b"221-bye\r\n", drips.MAIL_TAKEN) as peer:
        assert mailed(peer.port).delivered_at is not None
    assert b"\r\nMessage-ID: <msg_" in peer.heard


def test_a_look_up_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(60) and [])
    channel = Channel(name="slow", kind="webhook", address="https://slow.example/")
    channels.save(channel, ANN, timezone.now())
    with pytest.raises(WebhookError, match=NO_ANSWER):
        webhooks.post(channel, "msg_1", {}, timezone.now())
    done.set()


def test_a_name_of_several_addresses_leaves_time_for_the_next() -> None:
    with dripping(b"hello") as peer, exchange(5) as this:
        with this.connect(["127.0.0.2", "127.0.0.1"], peer.port) as connected:
            assert connected.getpeername()[0] == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            this.connect(["127.0.0.2", "127.0.0.3"], peer.port)


def test_one_that_reads_nothing_holds_no_writer() -> None:
    def write_on() -> None:
        with dripping(b"") as peer, exchange(0.3) as this, this.connect(["127.0.0.1"], peer.port) as connected:
            while True:
                connected.send(bytes(65_536))

    with pytest.raises(ExchangeDeadlineError):
        write_on()
