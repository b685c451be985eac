"""Rows are sent batch by batch, at least once, the same batch at every attempt, and over restores not silently."""

import csv
import hashlib
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction
from django.utils import timezone
from pytest_django import Settings
from standardwebhooks import Webhook

from ami_headend.core.sql import fetch_rows
from concentrators.feed import eras, subscriptions
from concentrators.feed.cursor import Cursor, Place
from concentrators.feed.deliveries import configuration, folder, sending
from concentrators.feed.deliveries.configuration import DeliverySettingError, Wanted
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.rows import Resource
from concentrators.feed.subscriptions import SubscriptionError
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.models import Concentrator, FeedDelivery, FeedSubscription
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord, SigningSecret
from meters.registry.groups import GroupName
from tests.alerts.receiver import Receiver, receiving
from tests.concentrators import fleet
from tests.concentrators.feed.deliveries.sftp_server import new_key
from tests.concentrators.feed.documents import MESSAGE_2011, texts, valid
from tests.concentrators.feed.numbering import numbered
from tests.concentrators.fleet import NOW
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory
from tests.flows.stack import wait_for

pytestmark = pytest.mark.usefixtures("own_database")
ANN = Actor("ann", "192.0.2.7")


@pytest.fixture(autouse=True)
def _settings(settings: Settings, tmp_path: Path) -> None:
    settings.WEBHOOK_ALLOW_HTTP, settings.WEBHOOK_REFUSED_NETWORKS = True, ["169.254.0.0/16"]
    settings.FEED_FOLDERS, settings.FEED_EXCHANGE_S = [str(tmp_path)], 5.0


@pytest.fixture(scope="module")
def concentrator(own_database: str) -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def told(concentrator: Concentrator, *wh: int) -> fleet.Device:
    """Have a new meter say intervals; each is in the feed, with the total of its register: two rows each."""
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(number, value) for number, value in enumerate(wh)])
    numbered()
    return device


def made(name: str, kind: str, address: object, **wanted: Any) -> FeedDelivery:
    """A delivery of what comes from now on."""
    numbered()
    given = {"wait_minutes": 0, **wanted}
    return configuration.save(name, Wanted(kind=kind, address=str(address), **given), ANN, NOW, at_end=True).delivery


def to_webhook(receiver: Receiver, name: str, **wanted: Any) -> FeedDelivery:
    numbered()
    given = {"wait_minutes": 0, **wanted}
    asked = Wanted(kind="webhook", address=receiver.url, **given)
    found = configuration.save(name, asked, ANN, NOW, at_end=True)
    receiver.secret = found.secret
    receiver.take = partial(take, receiver)  # type: ignore[method-assign]
    return found.delivery


def take(receiver: Receiver, headers: dict[str, str], body: bytes) -> int:
    """As the receiver of alerts does; a body may be no JSON document, which the library parses once it is verified."""
    with suppress(json.JSONDecodeError):
        Webhook(receiver.secret).verify(body, headers)
    receiver.ids.append(headers["webhook-id"])
    receiver.headers.append(headers)
    receiver.bodies.append(body)
    return receiver.answers.pop(0) if receiver.answers else 200


def deliver(delivery: FeedDelivery) -> FeedDelivery:
    sending.make_due(delivery.pk)
    sending.deliver_for(delivery.pk, 60)
    delivery.refresh_from_db()
    delivery.subscription.refresh_from_db()
    return delivery


def values(lines: bytes) -> list[str]:
    return [row["value"] for row in map(json.loads, lines.splitlines())]


def restored() -> None:
    """As after a restore of a backup that was made just now: a new era."""
    before = eras.state().era
    with transaction.atomic():
        eras.begin(NOW)
    assert eras.state().era != before


class TestWebhooks:
    def test_batches_are_signed_and_named_by_their_positions(
        self, receiver: Receiver, concentrator: Concentrator
    ) -> None:
        delivery = to_webhook(receiver, "billing", rows=3)
        told(concentrator, 100, 101)
        delivery = deliver(delivery)
        assert [len(values(body)) for body in receiver.bodies] == [3, 1]
        (first, second), state = receiver.headers, eras.state()
        assert first["content-type"] == "application/x-ndjson"
        place = f"{state.last:012d}"
        assert receiver.ids[0] == f"billing_{state.era}_{place}.000000-{place}.000002.ndjson"
        assert (first["feed-first"], first["feed-last"]) == (f"{state.last}.0", f"{state.last}.2")
        assert second["feed-cursor"] == str(Cursor(Resource.READINGS, state.era, Place(state.last + 1, 0)))
        assert (delivery.batches, delivery.rows_sent, delivery.attempts) == (2, 4, 0)
        (standing,) = subscriptions.standings(timezone.now(), "billing")
        assert (standing.rows, standing.delivery and standing.delivery.rows_sent) == (0, 4)

    def test_what_is_not_taken_comes_again_the_same_though_more_came_meanwhile(
        self, receiver: Receiver, concentrator: Concentrator
    ) -> None:
        delivery = to_webhook(receiver, "stubborn", rows=100)
        told(concentrator, 100)
        receiver.answers = [500]
        delivery = deliver(delivery)
        assert (delivery.attempts, delivery.last_error) == (1, "the receiver answered 500")
        assert (delivery.due_at or NOW) > timezone.now() + timedelta(seconds=10)
        sending.deliver_for(delivery.pk, 60)
        assert len(receiver.bodies) == 1, "it is put off"
        told(concentrator, 200)
        delivery = deliver(delivery)
        once, again, more = receiver.bodies
        assert once == again
        assert receiver.ids[0] == receiver.ids[1] != receiver.ids[2]
        assert len(values(more)) == 2
        assert (delivery.attempts, delivery.last_error, delivery.due_at) == (0, "", None)

    def test_a_redirect_is_not_followed_and_refused_addresses_stay_so(
        self, receiver: Receiver, concentrator: Concentrator, settings: Settings
    ) -> None:
        delivery = to_webhook(receiver, "elsewhere")
        told(concentrator, 100)
        receiver.answers = [307]
        assert deliver(delivery).last_error == "the receiver answered 307"
        assert len(receiver.bodies) == 1
        settings.WEBHOOK_REFUSED_NETWORKS = ["127.0.0.0/8"]
        assert "WEBHOOK_REFUSED_NETWORKS" in deliver(delivery).last_error
        assert len(receiver.bodies) == 1

    def test_a_message_of_iec_61968_is_valid_and_one_of_each_change(
        self, receiver: Receiver, concentrator: Concentrator
    ) -> None:
        delivery = to_webhook(receiver, "mdm", format="cim")
        device = told(concentrator, 100, 101)
        deliver(delivery)
        (body,) = receiver.bodies
        message = valid(body, MESSAGE_2011)
        assert texts(message, "//r:Meter/r:mRID") == [device.title.hex()]
        assert receiver.headers[0]["content-type"].startswith("application/xml")
        assert receiver.ids[0].endswith(".xml")

    def test_only_meters_of_the_group(self, receiver: Receiver, concentrator: Concentrator) -> None:
        group = groups.make(GroupName("district", "North"), ANN)
        delivery = to_webhook(receiver, "north", group=group)
        told(concentrator, 700)
        (inside,) = fleet.commission(1, concentrator)
        groups.put(group, Members(meters=[inside.meter.pk]), ANN)
        told(concentrator, 701)
        deliver(delivery)
        assert receiver.bodies == [], "nothing of it is to be sent"
        fleet.verified(concentrator, [inside.frame(0, 702)])
        numbered()
        delivery = deliver(delivery)
        (body,) = receiver.bodies
        assert "702" in values(body)
        assert "701" not in values(body)
        (standing,) = subscriptions.standings(timezone.now(), "north")
        assert standing.rows == 0

    def test_a_batch_that_is_not_full_waits(self, receiver: Receiver, concentrator: Concentrator) -> None:
        delivery = to_webhook(receiver, "patient", rows=4, wait_minutes=5)
        told(concentrator, 100)
        deliver(delivery)
        assert receiver.bodies == []
        told(concentrator, 101)
        deliver(delivery)
        assert [len(values(body)) for body in receiver.bodies] == [4]


class TestFailures:
    @pytest.mark.parametrize(
        "error", [RuntimeError("a fault of ours"), KeyError("x"), ValueError("a\0b\n" + "x" * 300)]
    )
    def test_whatever_goes_wrong_is_noted_and_put_off(
        self, error: Exception, out: Path, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delivery = made(f"wrong-{type(error).__name__}", "folder", out)
        told(concentrator, 100)
        monkeypatch.setitem(sending._PUT, "folder", Mock(side_effect=error))
        delivery = deliver(delivery)
        assert (delivery.attempts, delivery.last_error) == (
            1, f"the head-end could not send it ({type(error).__name__}): the worker's log says more"
        )  # fmt: skip
        assert (delivery.due_at or NOW) > timezone.now() + timedelta(seconds=10)

    def test_what_a_receiver_says_is_stored_in_one_line(
        self, out: Path, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delivery = made("unprintable", "folder", out)
        told(concentrator, 100)
        monkeypatch.setitem(sending._PUT, "folder", Mock(side_effect=DeliveryError("no\0room\n" + "x" * 300)))
        assert deliver(delivery).last_error.startswith(r"no\x00room\nxxx")

    def test_a_database_that_is_away_is_no_failure_of_the_receiver(
        self, out: Path, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delivery = made("database", "folder", out)
        told(concentrator, 100)
        monkeypatch.setitem(sending._PUT, "folder", Mock(side_effect=OperationalError("terminating connection")))
        with pytest.raises(OperationalError):
            deliver(delivery)
        delivery.refresh_from_db()
        assert delivery.attempts == 0


class TestFiles:
    @pytest.mark.parametrize("form", ["ndjson", "csv", "parquet", "cim"])
    def test_every_form(self, form: str, out: Path, concentrator: Concentrator) -> None:
        delivery = made(f"lake-{form}", "folder", out, format=form)
        told(concentrator, 123)
        deliver(delivery)
        data, checksum = sorted(out.iterdir())
        assert checksum.name == f"{data.name}.sha256"
        octets = data.read_bytes()
        assert checksum.read_text() == f"{hashlib.sha256(octets).hexdigest()}  {data.name}\n"
        read: dict[str, Callable[[], list[str]]] = {
            "ndjson": partial(values, octets),
            "csv": lambda: [row["value"] for row in csv.DictReader(io.StringIO(octets.decode()))],
            "parquet": lambda: list(pq.read_table(io.BytesIO(octets))["value"].to_pylist()),
            "cim": lambda: texts(valid(octets, MESSAGE_2011), "//r:value"),
        }
        assert "123" in read[form]()

    def test_a_missing_folder_skips_nothing(self, out: Path, concentrator: Concentrator) -> None:
        delivery = made("mounted", "folder", out)
        told(concentrator, 300)
        out.rmdir()
        delivery = deliver(delivery)
        assert "there is no folder" in delivery.last_error
        told(concentrator, 301)
        out.mkdir()
        deliver(delivery)
        found = [value for path in sorted(out.glob("*.ndjson")) for value in values(path.read_bytes())]
        assert [value for value in found if value in ("300", "301")] == ["300", "301"]

    def test_a_writer_killed_at_any_step_leaves_each_reading_in_one_whole_file(
        self, out: Path, concentrator: Concentrator
    ) -> None:
        """kill -9 between the steps: files, renames, and what the database is told; more rows come in between."""
        delivery = made("killed", "folder", out, rows=3)
        written: dict[str, bytes] = {}
        expected = []
        killed = 0
        for step in range(18):
            told(concentrator, 1000 + step)
            expected.append(str(1000 + step))
            killed += killed_at(step, delivery.pk)
            whole = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}
            for name, octets in written.items():
                assert whole[name] == octets, f"{name} is another file after step {step}"
            written |= {name: octets for name, octets in whole.items() if f"{name}.sha256" in whole}
        assert killed == 18
        deliver(delivery)
        rows = []
        for path in sorted(out.glob("*.ndjson")):
            line = (out / folder.checksum_name(path.name)).read_text()
            assert line.startswith(hashlib.sha256(path.read_bytes()).hexdigest())
            rows += [
                (row["position"], row["row"], row["value"])
                for row in map(json.loads, path.read_bytes().split(b"\n")[:-1])
            ]
        assert len(set(rows)) == len(rows), "a row is in two files"
        assert [value for *_, value in rows if value in expected] == expected
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


def is_unlocked() -> bool:
    """Whether the session that held the lock of a delivery has ended."""
    return not fetch_rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = %s::bigint", sending._LOCK)


def killed_at(step: int, delivery_id: int) -> bool:
    """Deliver in a child that is killed at the call of that number; return whether it was."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(act: Any) -> Any:
            def done(*args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return act(*args, **more)

            return done

        for owner, name in (
            (os, "fsync"), (Path, "replace"), (Path, "unlink"),
            (FeedDelivery, "save"), (sending, "_note_taken"), (sending, "cursor_of"),
        ):  # fmt: skip
            setattr(owner, name, counted(getattr(owner, name)))
        try:
            sending.make_due(delivery_id)
            sending.deliver_for(delivery_id, 60)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    wait_for("its session has ended", is_unlocked)
    return os.WIFSIGNALED(status)


class TestOtherEras:
    def test_after_a_restore_it_says_what_to_discard_and_sends_it_anew(
        self, out: Path, concentrator: Concentrator
    ) -> None:
        delivery = made("restored", "folder", out)
        told(concentrator, 500)
        before = delivery.subscription
        deliver(delivery)
        position, era = eras.state().last, before.era
        # The backup was made before the batch was delivered: its cursor is older than what the consumer has.
        FeedSubscription.objects.filter(pk=before.pk).update(position=position, row=1)
        restored()
        delivery = deliver(delivery)
        new_era = eras.state().era
        notice = json.loads((out / f"restored_{new_era}_{position:012d}-gone.json").read_bytes())
        assert notice["type"] == "feed.gone"
        assert (notice["former_era"], notice["era"], notice["discard_after"]) == (era, new_era, position - 1)
        assert "restored from a backup: discard" in notice["detail"]
        again = next(out.glob(f"restored_{new_era}_*.ndjson"))
        assert "500" in values(again.read_bytes())
        assert min(again.name, f"restored_{new_era}_{position:012d}-gone.json").endswith("gone.json")
        assert delivery.last_error == ""

    def test_a_webhook_is_told_too_and_until_it_takes_that_nothing_else_comes(
        self, receiver: Receiver, concentrator: Concentrator
    ) -> None:
        delivery = to_webhook(receiver, "told")
        told(concentrator, 600)
        restored()
        receiver.answers = [503]
        deliver(delivery)
        deliver(delivery)
        assert [one.get("feed-notice") for one in receiver.headers] == ["feed.gone", "feed.gone", None]
        assert receiver.bodies[0] == receiver.bodies[1]


class TestConfiguration:
    @pytest.mark.parametrize(
        ("wanted", "why"),
        [
            ({}, "needs kind and address"),
            ({"kind": "webhook", "address": "ftp://x"}, "must begin with https"),
            ({"kind": "webhook", "address": "http://169.254.169.254/"}, "WEBHOOK_REFUSED_NETWORKS"),
            ({"kind": "folder", "address": "/etc"}, "FEED_FOLDERS"),
            ({"kind": "folder", "address": "{out}", "rows": 0}, "rows is 1 to 1,000,000"),
            ({"kind": "folder", "address": "{out}", "password": "x"}, "only an SFTP server"),
            ({"kind": "sftp", "address": "sftp://mdm.example/in", "host_key": "x"}, "sftp://user@host:port/folder"),
            ({"kind": "sftp", "address": "sftp://a:b@mdm.example/in"}, "a password is given apart"),
            ({"kind": "sftp", "address": "sftp://a@mdm.example/in", "host_key": "ssh-ed25519 AAAA"}, "host key"),
            ({"kind": "sftp", "address": "sftp://a@169.254.1.1/in"}, "WEBHOOK_REFUSED_NETWORKS"),
        ],
    )
    def test_what_cannot_be_is_refused_and_nothing_is_stored(self, wanted: Any, why: str, out: Path) -> None:
        given: Any = {
            name: value.format(out=out) if isinstance(value, str) else value for name, value in wanted.items()
        }
        with pytest.raises(DeliverySettingError, match=why):
            configuration.save("never", Wanted(**given), ANN, NOW)
        assert not FeedSubscription.objects.filter(name="never").exists()

    @pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 61, "two words"])
    def test_names_that_cannot_name_files(self, name: str, out: Path) -> None:
        with pytest.raises(DeliverySettingError, match="cannot name files"):
            configuration.save(name, Wanted(kind="folder", address=str(out)), ANN, NOW)

    def test_it_is_audited_and_its_secrets_go_with_it(self, receiver: Receiver) -> None:
        before = SigningSecret.objects.count()
        to_webhook(receiver, "watched")
        configuration.save("watched", Wanted(is_enabled=False), ANN, NOW)
        assert configuration.new_secret("watched", ANN, NOW).secret.startswith("whsec_")
        configuration.remove("watched", ANN)
        assert SigningSecret.objects.count() == before
        acts = [row.act for row in AuditRecord.objects.order_by("-number")[:4]]
        assert acts == [f"feed_delivery.{act}" for act in ("delete", "new_secret", "change", "create")]
        assert AuditRecord.objects.order_by("-number")[0].subject["to"] == "127.0.0.1"

    def test_only_a_paused_one_is_moved_and_none_is_deleted_with_its_subscription(self, out: Path) -> None:
        delivery = made("moved", "folder", out)
        cursor = str(Cursor(Resource.READINGS, eras.state().era, Place(1, 0)))
        with pytest.raises(SubscriptionError, match="pause that first"):
            subscriptions.keep("moved", cursor, ANN, NOW)
        with pytest.raises(SubscriptionError, match="remove the delivery first"):
            subscriptions.delete("moved", ANN)
        configuration.save("moved", Wanted(is_enabled=False), ANN, NOW)
        subscriptions.keep("moved", cursor, ANN, NOW)
        assert AuditRecord.objects.order_by("-number")[0].act == "feed_delivery.move"
        delivery.subscription.refresh_from_db()
        assert delivery.subscription.position == 1

    def test_a_batch_that_was_begun_outlives_a_pause_and_other_sizes(
        self, out: Path, concentrator: Concentrator
    ) -> None:
        delivery = made("begun", "folder", out)
        told(concentrator, 100)
        out.rmdir()
        until = deliver(delivery).until_position
        assert until is not None
        for wanted in (Wanted(is_enabled=False), Wanted(is_enabled=True, rows=1), Wanted(wait_minutes=5)):
            assert configuration.save("begun", wanted, ANN, NOW).delivery.until_position == until
        out.mkdir()
        deliver(delivery)
        assert len(list(out.glob("*.ndjson"))) == 1
        FeedDelivery.objects.filter(pk=delivery.pk).update(until_position=until, until_row=0)
        assert configuration.save("begun", Wanted(format="csv"), ANN, NOW).delivery.until_position is None

    def test_it_cannot_become_another_kind(self, out: Path) -> None:
        made("kind", "folder", out)
        with pytest.raises(DeliverySettingError, match="remove it, and make another one"):
            configuration.save("kind", Wanted(kind="webhook"), ANN, NOW)

    @pytest.mark.parametrize("kind", ["webhook", "folder", "sftp"])
    @pytest.mark.parametrize("name", ["address", "host_key"])
    def test_no_value_is_longer_than_its_column(self, kind: str, name: str, out: Path) -> None:
        key = new_key()
        address = {"webhook": "https://x.example/", "folder": str(out), "sftp": "sftp://ami@x.example/in"}[kind]
        line = f"{key.get_name()} {key.get_base64()}" if kind == "sftp" else ""
        wanted: dict[str, Any] = {"address": address, "host_key": line}
        wanted[name] += " " * 1_001 if name == "host_key" else "/x" * 250
        with pytest.raises(DeliverySettingError, match=f"{name} has at most"):
            configuration.save(f"long-{kind}", Wanted(kind=kind, **wanted), ANN, NOW)

    @pytest.mark.parametrize("kind", ["webhook", "folder"])
    def test_each_secret_is_of_its_kind_alone(self, kind: str, out: Path) -> None:
        address = {"webhook": "https://x.example/", "folder": str(out)}[kind]
        right = Wanted(kind=kind, address=address)
        wrong = {"asks for a password": replace(right, password="x"), "has a host key": replace(right, host_key="x")}
        for why, wanted in wrong.items():
            with pytest.raises(DeliverySettingError, match=f"only an SFTP server {why}"):
                configuration.save(f"secret-{kind}", wanted, ANN, NOW)

    def test_one_is_paused_though_its_folder_is_refused_by_now(self, out: Path, settings: Settings) -> None:
        made("refused", "folder", out)
        settings.FEED_FOLDERS = []
        call_command("feed_delivery", "pause", "refused")
        assert not configuration.found("refused").is_enabled
        with pytest.raises(CommandError, match="FEED_FOLDERS"):
            call_command("feed_delivery", "resume", "refused")


class TestTurns:
    def test_one_at_a_time(self, out: Path, concentrator: Concentrator) -> None:
        delivery = made("alone", "folder", out)
        told(concentrator, 100)
        other = connections.create_connection("default")
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s, %s)", [sending._LOCK, delivery.pk])
            deliver(delivery)
            assert list(out.iterdir()) == []
        finally:
            other.close()
        wait_for("the lock is released", is_unlocked)
        deliver(delivery)
        assert len(list(out.iterdir())) == 2

    def test_those_that_failed_are_tried_one_at_a_time(
        self, out: Path, concentrator: Concentrator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one of them holds its worker, another waits, and one that did not fail is sent."""
        first, second, third = (made(name, "folder", out) for name in ("hangs", "hung", "healthy"))
        FeedDelivery.objects.filter(pk__in=[first.pk, second.pk]).update(attempts=1)
        told(concentrator, 100)
        tried = []

        def meanwhile() -> None:
            with closing(connections["default"]):
                deliver(second)
                deliver(third)

        def put(delivery: FeedDelivery, *rest: object) -> None:
            tried.append(delivery.pk)
            if delivery.pk == first.pk:
                other = Thread(target=meanwhile)  # with a session of its own
                other.start()
                other.join()
                raise DeliveryError("it took too long")

        monkeypatch.setitem(sending._PUT, "folder", put)
        deliver(first)
        assert tried == [first.pk, third.pk]
        deliver(second)
        assert tried[2:] == [second.pk]

    def test_those_that_failed_come_last_in_the_order_of_their_pauses(
        self, out: Path, concentrator: Concentrator
    ) -> None:
        """One that has recovered does not wait behind those that hang again and again."""
        hangs, recovered, healthy = (made(name, "folder", out) for name in ("hangs", "recovered", "healthy"))
        now = timezone.now()
        for delivery, seconds in ((hangs, 5), (recovered, 60)):
            FeedDelivery.objects.filter(pk=delivery.pk).update(attempts=9, due_at=now - timedelta(seconds=seconds))
        told(concentrator, 100)
        mine = {hangs.pk, recovered.pk, healthy.pk}
        assert [pk for pk in sending.due(now) if pk in mine] == [healthy.pk, recovered.pk, hangs.pk]

    def test_due_are_those_with_rows_and_not_put_off_nor_paused(self, out: Path, concentrator: Concentrator) -> None:
        delivery = made("due", "folder", out)
        assert delivery.pk not in sending.due(timezone.now())
        told(concentrator, 100)
        assert delivery.pk in sending.due(timezone.now())
        later = timezone.now() + timedelta(minutes=10)
        FeedDelivery.objects.filter(pk=delivery.pk).update(due_at=later)
        assert delivery.pk not in sending.due(timezone.now())
        assert delivery.pk in sending.due(later)
        FeedDelivery.objects.filter(pk=delivery.pk).update(due_at=later + timedelta(days=9))  # by a wrong clock
        assert delivery.pk in sending.due(timezone.now())
        configuration.save("due", Wanted(is_enabled=False), ANN, NOW)
        assert delivery.pk not in sending.due(timezone.now())

    def test_the_number_of_statements_does_not_depend_on_that_of_rows(
        self, out: Path, concentrator: Concentrator
    ) -> None:
        delivery = made("constant", "folder", out)
        asked = []
        for rows in (1, 12):
            told(concentrator, *range(rows))
            with counting() as statements:
                sending.make_due(delivery.pk)
                sending.deliver_next(delivery.pk)
            asked.append(len(statements))
        assert asked[0] == asked[1]


class TestCommand:
    def test_from_the_first_to_the_last(
        self, out: Path, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("feed_delivery", "set", "by-hand", kind="folder", address=str(out), wait_minutes=0, at_end=True)
        told(concentrator, 800)
        call_command("feed_delivery", "pause", "by-hand")
        with pytest.raises(CommandError, match="by-hand is paused"):
            call_command("feed_delivery", "run", "by-hand")
        call_command("feed_delivery", "resume", "by-hand")
        call_command("feed_delivery", "run", "by-hand")
        assert "by-hand: 2 rows were sent." in capsys.readouterr().out
        told(concentrator, 801)
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
        with pytest.raises(CommandError, match="a batch was not taken: there is no folder"):
            call_command("feed_delivery", "run", "by-hand")
        delivery = FeedDelivery.objects.get(subscription__name="by-hand")
        with closing(connections.create_connection("default")) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", [sending._LOCK, delivery.pk])
            with pytest.raises(CommandError, match="a worker sends for by-hand at this moment"):
                call_command("feed_delivery", "run", "by-hand")
        call_command("feed_delivery", "list")
        assert "by-hand  folder, ndjson, readings: 2 rows in 1 batch sent, 2 wait; failing" in capsys.readouterr().out
        call_command("feed_delivery", "remove", "by-hand")
        with pytest.raises(CommandError, match=r"has no delivery\. Nothing was changed"):
            call_command("feed_delivery", "remove", "by-hand")

    def test_secrets_are_alone_on_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("feed_delivery", "set", "hook", kind="webhook", address="https://billing.example/feed")
        assert capsys.readouterr().out.startswith("whsec_")
        call_command("feed_delivery", "secret", "hook")
        assert capsys.readouterr().out.startswith("whsec_")
        key = new_key()
        options = {"kind": "sftp", "address": "sftp://ami@mdm.example/in"}
        line = f"mdm.example {key.get_name()} {key.get_base64()}"
        call_command("feed_delivery", "set", "mdm-files", host_key=line, **options)
        public = capsys.readouterr().out
        assert public.startswith("ssh-ed25519 ")
        call_command("feed_delivery", "public-key", "mdm-files")
        assert capsys.readouterr().out == public
        with pytest.raises(CommandError, match="ssh-keyscan"):
            call_command("feed_delivery", "set", "other-files", host_key="x", **options)
        with pytest.raises(CommandError, match=r"WEBHOOK_REFUSED_NETWORKS\).*metadata\. Nothing was changed\.$"):
            call_command("feed_delivery", "set", "here", kind="webhook", address="http://169.254.169.254/")
