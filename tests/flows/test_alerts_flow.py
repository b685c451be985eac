"""A silent concentrator is noticed, and told to a real receiver by a signed webhook; nothing is lost on the way."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
from django.db.models import F
from django.utils import timezone

from ami_headend.alerts import channels, delivery, reminders_store
from ami_headend.alerts.models import Alert, Channel, Condition, Delivery, Rule
from ami_headend.models import KeptAnswer
from concentrators.models import Uplink
from keyvault.audit.chain import Actor
from tests.alerts.receiver import Receiver, kept_place, receiving
from tests.flows import site as sites
from tests.flows.site import Site, frames_of, wait_verified
from tests.flows.stack import TRUSTED, Stack, stack_of, wait_for

TOKEN = "scrape"
ENVIRON = {
    "WEBHOOK_ALLOW_HTTP": "1",
    "WEBHOOK_REFUSED_NETWORKS": "169.254.0.0/16",
    "METRICS_TOKEN": TOKEN,
    "PUBLIC_URL": "https://headend.example/",
}


stack = stack_of("web", "worker", environ=ENVIRON)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def tell_to(receiver: Receiver) -> Channel:
    Channel.objects.all().delete()
    channel = Channel(name="duty", kind="webhook", address=receiver.url)
    receiver.secret = channels.save(channel, Actor("ann", "test"), timezone.now()) or ""
    return channel


def fall_silent(site: Site) -> None:
    """Hours pass."""
    Uplink.objects.filter(concentrator=site.concentrator).update(received_at=timezone.now() - timedelta(hours=3))


def have_beat(stack: Stack) -> None:
    """The first turns of the schedule come at once: what there is to be found is there before."""
    if "beat" not in stack.processes:
        stack.start("beat")


def metric(stack: Stack, name: str) -> float:
    answer = httpx.get(
        f"{stack.base_url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10, verify=TRUSTED
    )
    assert answer.status_code == 200
    (line,) = [line for line in answer.text.splitlines() if line.startswith(f"ami_headend_{name} ")]
    return float(line.rpartition(" ")[2])


def send_until(stack: Stack, what: str, ready: Callable[[], bool], *tasks: str) -> None:
    """Sends tasks as beat does, only more often: one of them may find another at work, and leave it to the next."""
    sent_at_s = 0.0

    def is_ready() -> bool:
        nonlocal sent_at_s
        if time.monotonic() - sent_at_s > 3:
            for task in tasks:
                stack.send(f"ami_headend.{task}")
            sent_at_s = time.monotonic()
        return ready()

    wait_for(what, is_ready, 75)


def evaluate_until(stack: Stack, what: str, ready: Callable[[], bool]) -> None:
    Rule.objects.update(evaluated_at=None)  # none rests any more
    send_until(stack, what, ready, "alerts.tasks.evaluate_alerts")


def test_a_silent_concentrator_is_noticed_and_told_and_so_is_its_return(stack: Stack, receiver: Receiver) -> None:
    site = sites.found(stack, 2)
    Rule.objects.exclude(condition=Condition.SILENT_CONCENTRATOR).update(is_enabled=False)
    tell_to(receiver)
    wait_verified([site.posted(frames_of(site.devices, range(2)))])
    fall_silent(site)
    have_beat(stack)

    wait_for("the receiver hears of it", lambda: receiver.types == ["alert.opened"], 75)
    message = receiver.messages[0]["data"]
    assert message["condition"] == "silent_concentrator"
    assert message["subject"] == {
        "kind": "concentrator",
        "id": site.concentrator.pk,
        "name": site.concentrator.name,
    }
    alert = Alert.objects.get(rule__condition=Condition.SILENT_CONCENTRATOR)
    assert message["url"] == f"https://headend.example/admin/alerts/{alert.pk}/"
    wait_for("the delivery is noted", lambda: Delivery.objects.get().delivered_at is not None)

    wait_verified([site.posted(frames_of(site.devices, range(2, 4)))])
    evaluate_until(stack, "its return is told", lambda: receiver.types == ["alert.opened", "alert.resolved"])
    alert.refresh_from_db()
    assert alert.resolved_at is not None
    assert receiver.forged == 0

    posted = Uplink.objects.count()
    counted = "metrics.tasks.count_uplinks"
    send_until(stack, "uplinks are counted", lambda: metric(stack, "uplinks_verified_total") == posted, counted)
    taken = KeptAnswer.objects.filter(name="metric meters").exists
    send_until(stack, "the costly figures are taken", taken, "tasks.renew_kept_answers")


def time_passes() -> None:
    """What was put off is due, and what a worker took and did not send may be taken by another."""
    lease = reminders_store.LEASE
    Delivery.objects.filter(delivered_at=None).update(due_at=timezone.now(), leased_at=F("leased_at") - lease)


@pytest.fixture
def silent(stack: Stack) -> Site:
    """A site that nothing came from for hours."""
    site = sites.found(stack, 1)
    Channel.objects.all().delete()  # nobody is told before a test says whom
    wait_verified([site.posted(frames_of(site.devices, range(1)))])
    fall_silent(site)
    Rule.objects.exclude(condition=Condition.SILENT_CONCENTRATOR).update(is_enabled=False)
    return site


def sweep_until(stack: Stack, what: str, ready: Callable[[], bool]) -> None:
    send_until(stack, what, ready, "alerts.tasks.sweep_deliveries")


def test_a_message_outlives_its_worker_redis_and_a_receiver_that_is_down(stack: Stack, silent: Site) -> None:
    with kept_place() as place:
        down = Receiver(place.getsockname()[1])
        channel = tell_to(down)
        # Taken, tried, and given back: a worker that is killed in between has a lease of two minutes (see below).
        failed = Delivery.objects.filter(channel=channel, attempts__gte=1, leased_at=None, given_up_at=None)
        evaluate_until(stack, "an attempt has failed", failed.exists)
        stack.kill("worker")
        with stack.redis() as client:
            client.flushdb()
        with receiving(place) as back:
            back.secret = down.secret
            stack.start("worker")
            time_passes()
            sweep_until(stack, "the sweep brings it", lambda: "alert.opened" in back.types)
            assert len(set(back.ids)) == len(back.messages)


def test_a_message_outlives_a_worker_that_is_killed_while_it_sends(
    stack: Stack, silent: Site, receiver: Receiver
) -> None:
    """The message goes out again, with the same id, once the lease of the dead worker is over; not before."""
    taking, killed = threading.Event(), threading.Event()

    def hold() -> None:
        if not taking.is_set():
            taking.set()
            assert killed.wait(60)

    receiver.during = hold
    channel = tell_to(receiver)
    evaluate_until(stack, "the receiver has a message", taking.is_set)
    stack.kill("worker")
    killed.set()
    wait_for("the first copy is taken", lambda: len(receiver.messages) == 1)
    stack.start("worker")
    message = Delivery.objects.filter(pk=Delivery.objects.get(channel=channel, leased_at__isnull=False).pk)
    assert delivery.claim(channel.pk, timezone.now()) is None
    assert (len(receiver.ids), message.get().attempts) == (1, 1)
    time_passes()
    sweep_until(stack, "it is sent again", lambda: receiver.ids.count(receiver.ids[0]) == 2)
    wait_for("the delivery is noted", message.filter(attempts=2, delivered_at__isnull=False).exists)
