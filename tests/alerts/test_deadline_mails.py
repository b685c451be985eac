"""The daily mail of a deadline, through a real SMTP server: once for each day and address, whatever happens between."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts import channels, deadline_mails, delivery, tasks
from ami_headend.alerts.forms import ChannelForm
from ami_headend.alerts.models import Channel, Delivery
from ami_headend.health import neighbours
from concentrators.failures.kinds import Severity
from concentrators.fleet import groups
from concentrators.models import Concentrator, ReadDay, ReadDeadline
from concentrators.totals import read_success
from concentrators.totals.read_success import Success
from keyvault.audit.chain import Actor
from meters.registry.groups import GroupName
from tests.factories import ConcentratorFactory
from tests.flows.stack import free_port

pytestmark = pytest.mark.django_db

ANN = Actor("ann", "test")


class Postbox:
    """Keeps what it is sent; refuses while ``is_closed``."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.is_closed = False

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.is_closed:
            return "451 not now"
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


@pytest.fixture
def postbox(settings: Settings) -> Iterator[Postbox]:
    box = Postbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    settings.EMAIL_BACKEND = "ami_headend.core.mail.DeadlineEmailBackend"
    settings.EMAIL_URL = "smtp://127.0.0.1"
    settings.EMAIL_HOST, settings.EMAIL_PORT = controller.hostname, controller.port
    settings.PUBLIC_URL = "https://headend.example"
    yield box
    controller.stop()


@pytest.fixture
def day() -> ReadDay:
    """Yesterday, due an hour ago."""
    now = timezone.now()
    start = datetime.combine(now.date() - timedelta(days=1), time(), tzinfo=UTC)
    deadline = ReadDeadline.objects.get()
    due_at = now - timedelta(hours=1)
    shares = {ConcentratorFactory.create(name=name).pk: share for name, share in SHARES.items()}
    read_success.take_over(deadline, start.date(), shares, now)
    ReadDay.objects.update(due_at=due_at)
    return ReadDay.objects.get()


SHARES = {"=A": Success(1_000, 979, 11), "B": Success(1_000, 999, 0)}


def channel(deadline: ReadDeadline, **more: Any) -> Channel:
    row = Channel(name="control room", kind="mails", address="ann@a.example, bob@b.example", deadline=deadline, **more)
    channels.save(row, ANN, timezone.now())
    Channel.objects.update(created_at=timezone.now() - timedelta(days=9))
    return row


def text_of(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_the_mail_has_figures_and_tables_and_comes_once(postbox: Postbox, day: ReadDay) -> None:
    group = groups.make(GroupName("district", "North & South"), ANN)
    groups.put(group, groups.Members(concentrators=[Concentrator.objects.get(name="=A").pk]), ANN)
    row = channel(day.deadline)
    for _ in range(2):
        tasks.sweep_deliveries()
        delivery.deliver_for(row.pk, 5)
    assert [mail["To"] for mail in postbox.mails] == ["ann@a.example", "bob@b.example"]
    mail = postbox.mails[0]
    assert mail["Subject"].startswith("[ami-headend] met: all concentrators, ")
    assert mail["Subject"].endswith(": 98.9 % (Day after, 07:00)")
    said, html = text_of(mail, "plain"), text_of(mail, "html")
    assert "98.9 %, the target is 98 %: 1,978 of 2,000 intervals" in said
    assert "97.9 %  missed  =A: 11 late, 10 missing" in said
    assert "district:North & South" in said
    assert "district:North &amp; South" in html
    assert f"https://headend.example/admin/deadlines/?day={day.day}" in said
    tables = {part.get_filename(): str(part.get_content()) for part in mail.iter_attachments()}
    assert set(tables) == {f"concentrators-{day.day}.csv", f"groups-{day.day}.csv"}
    lines = tables[f"concentrators-{day.day}.csv"].splitlines()
    assert len(lines) == 3
    assert '"\'=A",1000,979,11,"missed"' in lines[1]


def test_a_mail_of_one_group(postbox: Postbox, day: ReadDay) -> None:
    group = groups.make(GroupName("district", "North"), ANN)
    groups.put(group, groups.Members(concentrators=[Concentrator.objects.get(name="=A").pk]), ANN)
    row = channel(day.deadline, group=group)
    assert deadline_mails.write_due(timezone.now()) == {row.pk}
    delivery.deliver_for(row.pk, 5)
    mail = postbox.mails[0]
    assert "missed: district:North" in mail["Subject"]
    assert [part.get_filename() for part in mail.iter_attachments()] == [f"concentrators-{day.day}.csv"]
    assert "B:" not in text_of(mail, "plain")


def test_a_server_that_refuses_is_tried_again_and_told(postbox: Postbox, day: ReadDay) -> None:
    row = channel(day.deadline)
    postbox.is_closed = True
    deadline_mails.write_due(timezone.now())
    delivery.deliver_for(row.pk, 5)
    waiting = Delivery.objects.filter(delivered_at=None)
    assert waiting.count() == 2
    assert "not now" in waiting.latest("attempts").last_error
    assert neighbours.messages()[0]
    waiting.update(created_at=timezone.now() - timedelta(hours=2))
    well, found, _ = neighbours.messages()
    assert not well
    assert "2 wait, one to control room" in found
    postbox.is_closed = False
    waiting.update(due_at=timezone.now())
    delivery.deliver_for(row.pk, 5)
    assert [mail["To"] for mail in postbox.mails] == ["ann@a.example", "bob@b.example"]
    first = Delivery.objects.order_by("pk")[0]
    assert (first.attempts, postbox.mails[0]["Message-ID"]) == (2, f"<{first.message_id}@localhost>")
    assert not waiting.exists()


def test_it_is_given_up_when_nobody_wants_it_any_more(settings: Settings, day: ReadDay) -> None:
    settings.EMAIL_URL = ""
    row = channel(day.deadline)
    deadline_mails.write_due(timezone.now())
    Delivery.objects.update(created_at=timezone.now() - timedelta(days=3))
    delivery.deliver_for(row.pk, 5)
    given_up = Delivery.objects.filter(given_up_at__isnull=False)
    assert {one.last_error for one in given_up} == {"EMAIL_URL is not set: there is no mail server"}
    assert given_up.count() == 2
    given_up.update(given_up_at=None, last_error="")
    row.address = "bob@b.example"
    channels.save(row, ANN, timezone.now())
    assert Delivery.objects.filter(given_up_at=None).count() == 1
    row.is_enabled = False
    channels.save(row, ANN, timezone.now())
    assert not Delivery.objects.filter(given_up_at=None).exists()


def test_which_days_are_told(day: ReadDay) -> None:
    row = channel(day.deadline)
    now = timezone.now()
    Channel.objects.update(created_at=now)  # after the deadline
    assert deadline_mails.write_due(now) == set()
    Channel.objects.update(created_at=now - timedelta(days=9))
    ReadDay.objects.update(due_at=now - timedelta(days=4))
    assert deadline_mails.write_due(now) == set()
    ReadDay.objects.update(due_at=now - timedelta(days=2))  # after downtime
    assert deadline_mails.write_due(now) == {row.pk}
    assert Delivery.objects.filter(of_day=day).count() == 2
    # A worker that read before the other wrote writes nothing twice.
    Delivery.objects.bulk_create(
        [
            Delivery(
                channel=row,
                recipient="ann@a.example",
                event="deadline",
                of_day=day,
                body={},
                created_at=now,
                due_at=now,
            )
        ],
        ignore_conflicts=True,
    )
    assert Delivery.objects.filter(of_day=day).count() == 2


def test_the_form_asks_for_a_deadline(day: ReadDay) -> None:
    said: dict[str, Any] = {"name": "x", "kind": "mails", "address": "a@b.example", "is_enabled": True}
    said["least_severity"] = Severity.WARNING.value
    assert "deadline" in ChannelForm(said).errors
    assert ChannelForm({**said, "deadline": day.deadline_id}).is_valid()
    form = ChannelForm({**said, "kind": "email", "deadline": day.deadline_id})
    assert form.is_valid()
    assert form.cleaned_data["deadline"] is None
