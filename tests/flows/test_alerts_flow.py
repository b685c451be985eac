"""A silent concentrator is noticed, and told to a real receiver by a signed webhook; nothing is lost on the way."""

from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.alerts import channels
from ami_headend.alerts.models import Alert, Channel, Condition, Delivery, Rule
from ami_headend.metrics.models import Snapshot
from concentrators.models import Uplink
from keyvault.audit.chain import Actor
from tests.alerts.receiver import Receiver, receiving
from tests.flows import site as sites
from tests.flows.site import Site, frames_of, wait_verified
from tests.flows.stack import Stack, running, wait_for

TOKEN = "scrape"
ENVIRON = {
    "WEBHOOK_ALLOW_HTTP": "1",
    "WEBHOOK_REFUSED_NETWORKS": "169.254.0.0/16",
    "METRICS_TOKEN": TOKEN,
    "PUBLIC_URL": "https://headend.example/",
}


@pytest.fixture(scope="module")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with django_db_blocker.unblock(), running(folder, ("web", "worker"), ENVIRON) as stack:
        yield stack


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
    answer = httpx.get(f"{stack.base_url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    assert answer.status_code == 200
    (line,) = [line for line in answer.text.splitlines() if line.startswith(f"ami_headend_{name} ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.timeout(240)
def test_a_silent_concentrator_is_noticed_and_told_and_so_is_its_return(stack: Stack, receiver: Receiver) -> None:
    site = sites.found(stack, 2)
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
    Rule.objects.update(evaluated_at=None)  # none rests any more
    stack.send("ami_headend.alerts.tasks.evaluate_alerts")
    wait_for("its return is told", lambda: receiver.types == ["alert.opened", "alert.resolved"], 75)
    alert.refresh_from_db()
    assert alert.resolved_at is not None
    assert receiver.forged == 0

    for task in ("count_uplinks", "take_snapshots"):
        stack.send(f"ami_headend.metrics.tasks.{task}")
    wait_for("uplinks are counted", lambda: metric(stack, "uplinks_verified_total") == 2, 45)
    wait_for("the costly figures are taken", Snapshot.objects.exists, 75)


@pytest.mark.timeout(240)
def test_a_message_outlives_its_worker_redis_and_a_receiver_that_is_down(stack: Stack) -> None:
    site = sites.found(stack, 1)
    with receiving() as down:
        channel = tell_to(down)
    wait_verified([site.posted(frames_of(site.devices, range(1)))])
    fall_silent(site)
    Rule.objects.exclude(condition=Condition.SILENT_CONCENTRATOR).update(is_enabled=False)
    have_beat(stack)
    stack.send("ami_headend.alerts.tasks.evaluate_alerts")
    wait_for("an attempt fails", lambda: Delivery.objects.filter(channel=channel, attempts__gte=1).exists(), 75)
    stack.kill("worker")
    with stack.redis() as client:
        client.flushdb()
    Delivery.objects.update(due_at=timezone.now())
    with receiving(down.port) as back:
        back.secret = down.secret
        stack.start("worker")
        stack.send("ami_headend.alerts.tasks.sweep_deliveries")
        wait_for("the sweep brings it", lambda: "alert.opened" in back.types, 75)
        assert len(set(back.ids)) == len(back.messages)
