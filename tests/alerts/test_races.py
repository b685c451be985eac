"""Two workers at once: one evaluates, one sends; and what a dead one left goes out."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.alerts import channels, delivery, evaluation, notices, reminders_store
from ami_headend.alerts.models import Alert, Channel, Condition, Delivery, Rule
from ami_headend.core import locks
from keyvault.audit.chain import Actor
from tests.alerts.conftest import only
from tests.alerts.receiver import receiving
from tests.flows import databases


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all races of this module."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.fixture
def db() -> None:
    """Not pytest-django's: these tests commit."""


def beside(call: Callable[[], object]) -> None:
    """Runs a call in a thread with a connection of its own, to its end."""

    def run() -> None:
        try:
            call()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_only_one_evaluates_at_a_time(settings: Settings) -> None:
    only(Condition.MASTER_KEY_DOWN)
    settings.MASTER_KEY_FILE = settings.MASTER_KEY_FILE.with_name("nothing")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [locks.ALERTS])
        beside(lambda: evaluation.evaluate(timezone.now()))
    assert not Alert.objects.exists()
    Rule.objects.update(evaluated_at=None)
    evaluation.evaluate(timezone.now())
    assert Alert.objects.count() == 1


def test_one_message_of_a_channel_is_under_way_at_a_time(settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_HTTP = True
    settings.WEBHOOK_REFUSED_NETWORKS = []
    with receiving() as receiver:
        channel = Channel(name="duty", kind="webhook", address=receiver.url)
        receiver.secret = channels.save(channel, Actor("ann", "test"), timezone.now()) or ""
        notices.test(channel, "ann", timezone.now())
        notices.test(channel, "bob", timezone.now())
        claimed = delivery.claim(channel.pk, timezone.now())
        assert claimed is not None
        beside(lambda: delivery.deliver_for(channel.pk, 5))
        assert receiver.messages == []
        delivery.store(claimed, delivery._send(claimed), timezone.now())
        delivery.deliver_for(channel.pk, 5)
        assert [message["data"].get("asked_for_by") for message in receiver.messages][-2:] == ["ann", "bob"]
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


def test_while_a_receiver_takes_its_time_nothing_is_locked_and_no_transaction_is_open(settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_HTTP = True
    settings.WEBHOOK_REFUSED_NETWORKS = []
    seen = []

    def look() -> None:
        def ask() -> None:
            with connection.cursor() as cursor:
                cursor.execute(
                    """SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                               AND state LIKE 'idle in transaction%%'),
                              (SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                               JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                               WHERE c.relname LIKE 'alerts_%%' AND l.pid <> pg_backend_pid())"""
                )
                seen.append(cursor.fetchone())

        beside(ask)

    with receiving() as receiver:
        channel = Channel(name="slow", kind="webhook", address=receiver.url)
        receiver.secret = channels.save(channel, Actor("ann", "test"), timezone.now()) or ""
        receiver.during = look
        notices.test(channel, "ann", timezone.now())
        delivery.deliver_for(channel.pk, 5)
    assert seen
    assert set(seen) == {(0, 0)}


def test_what_a_dead_worker_claimed_goes_out_under_the_same_id_once_the_lease_is_over() -> None:
    channel = Channel.objects.create(name="abandoned", kind="email", address="ann@a.example")
    notices.test(channel, "ann", timezone.now())
    now = timezone.now()
    claimed = delivery.claim(channel.pk, now)
    assert claimed is not None
    assert delivery.claim(channel.pk, now + reminders_store.LEASE - timedelta(seconds=1)) is None
    again = delivery.claim(channel.pk, now + reminders_store.LEASE)
    assert again is not None
    assert (again.message_id, again.attempts) == (claimed.message_id, 2)
    delivery.store(claimed, OSError("too late to say so"), now + reminders_store.LEASE)
    assert delivery.claim(channel.pk, now + reminders_store.LEASE) is None  # it is the other's still
    delivery.store(again, None, now + reminders_store.LEASE)
    assert delivery.claim(channel.pk, now + 2 * reminders_store.LEASE) is None


def test_one_claims_while_the_other_looks() -> None:
    channel = Channel.objects.create(name="contended", kind="email", address="ann@a.example")
    for who in ("ann", "bob"):
        notices.test(channel, who, timezone.now())
    claims = []
    with transaction.atomic():
        claims.append(delivery.claim(channel.pk, timezone.now()))
        beside(lambda: claims.append(delivery.claim(channel.pk, timezone.now())))
    assert [claimed is not None for claimed in claims] == [True, False]


def test_what_waits_behind_is_put_off_past_rows_that_another_holds() -> None:
    """A worker that settles another alert holds its messages, and may wait for ours: no deadlock."""
    channel = Channel.objects.create(name="down", kind="email", address="ann@a.example")
    for who in ("ann", "bob", "cy"):
        notices.test(channel, who, timezone.now())
    claimed = delivery.claim(channel.pk, timezone.now())
    assert claimed is not None
    held, free = Delivery.objects.filter(channel=channel).exclude(pk=claimed.pk).order_by("pk")
    with transaction.atomic():
        list(Delivery.objects.select_for_update().filter(pk=held.pk))
        beside(lambda: delivery.store(claimed, OSError("no route"), timezone.now()))
    due = dict(Delivery.objects.filter(channel=channel).values_list("pk", "due_at"))
    assert due[free.pk] == due[claimed.pk] > timezone.now()
    assert due[held.pk] == held.due_at
    channel.delete()
