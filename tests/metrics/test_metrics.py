"""Metrics: right, only growing, guarded, quick, and the dashboard asks for none that there is not."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from ami_headend import cached_answers
from ami_headend.alerts.models import Alert, Condition, Rule
from ami_headend.health import components, heartbeats
from ami_headend.metrics import collector, counting, snapshots, tasks
from ami_headend.models import Heartbeat
from ami_headend.signin import roles
from concentrators.ingest import reverification
from concentrators.listener.figures import Figures
from concentrators.models import Concentrator, ReadDeadline, Uplink
from concentrators.totals import read_success
from concentrators.totals.read_success import Success
from keyvault.audit import chain
from keyvault.journal import mirrors, writing
from keyvault.journal.copies import Segment
from keyvault.journal.mirrors import Standing
from keyvault.journal.segments import JournalRecord
from keyvault.master_key import rewrap
from keyvault.models import DeviceKey, InvocationCounter
from meters.models import Meter
from tests.concentrators import fleet
from tests.concentrators.scheme_devices import announce, of_signed, signing
from tests.concentrators.statements import counting as counting_statements
from tests.console.people import person
from tests.factories import ConcentratorFactory, UplinkFactory

pytestmark = pytest.mark.django_db

DASHBOARD = Path(configured.BASE_DIR) / "docs/grafana/ami-headend.json"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def take(now: datetime) -> None:
    """What the schedule does: the costly figures."""
    cached_answers.renew(list(snapshots.QUESTIONS.values()), now)


@pytest.fixture
def asked(settings: Settings) -> Any:
    settings.METRICS_TOKEN = "scrape"
    return Client(headers={"authorization": "Bearer scrape"})


def samples(client: Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def one(found: Samples, name: str, **labels: str) -> float:
    return found[f"ami_headend_{name}", tuple(sorted(labels.items()))]


def damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


class TestCounters:
    def test_every_frame_once_by_its_verdict(self, asked: Client) -> None:
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        now = timezone.now()
        frame = device.frame(0)
        first = fleet.verified(concentrator, [frame, frame, damaged(frame)], now)
        for _ in range(2):
            found = samples(asked)
            assert one(found, "frames_total", verdict="accepted") == 1
            assert one(found, "frames_total", verdict="duplicate") == 1
            assert one(found, "frames_total", verdict="tag_invalid") == 1
            assert one(found, "frames_total", verdict="replayed") == 0
            assert one(found, "uplinks_verified_total") == 1
            assert one(found, "uplink_octets_total") == first.octets
        fleet.verified(concentrator, [device.frame(1), b"garbage"], now)
        found = samples(asked)
        assert one(found, "frames_total", verdict="accepted") == 2
        assert one(found, "frames_total", verdict="malformed") == 1
        assert one(found, "uplinks_verified_total") == 2

    def test_they_outlive_the_rows(self, asked: Client) -> None:
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        fleet.verified(concentrator, [device.frame(0)])
        counting.count()
        Uplink.objects.all().delete()
        assert one(samples(asked), "frames_total", verdict="accepted") == 1

    def test_a_frame_that_is_judged_again_counts_as_first_judged(self, asked: Client) -> None:
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        key = DeviceKey.objects.filter(system_title=device.title)
        kept = list(key.values())
        InvocationCounter.objects.filter(key__in=key).delete()
        key.delete()
        uplink = fleet.verified(concentrator, [device.frame(0)])
        assert one(samples(asked), "frames_total", verdict="unknown_device") == 1
        DeviceKey.objects.create(**kept[0])
        InvocationCounter.objects.create(key_id=kept[0]["id"])
        reverification.verify_again(uplink.pk)
        found = samples(asked)
        assert one(found, "frames_total", verdict="unknown_device") == 1
        assert one(found, "frames_total", verdict="accepted") == 0

    def test_latency_from_post_to_verified(self, asked: Client) -> None:
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        for interval, ago_s in enumerate((0, 20, 20, 10 * 86_400)):
            fleet.verified(concentrator, [device.frame(interval - 1_000)], timezone.now() - timedelta(seconds=ago_s))
        found = samples(asked)
        counts = {
            le: one(found, "verification_latency_seconds_bucket", le=le) for le in ("1", "10", "30", "86400", "+Inf")
        }
        assert counts == {"1": 1, "10": 1, "30": 3, "86400": 3, "+Inf": 4}
        assert one(found, "verification_latency_seconds_count") == 4
        assert 864_040 <= one(found, "verification_latency_seconds_sum") < 864_060

    def test_far_behind_a_question_counts_one_batch_and_a_worker_all(
        self, asked: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(counting, "_BATCH", 1)
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        for interval in range(4):
            fleet.verified(concentrator, [device.frame(interval)])
        assert one(samples(asked), "uplinks_verified_total") == 1
        tasks.count_uplinks()
        assert one(samples(asked), "uplinks_verified_total") == 4


class TestGauges:
    def test_queue_and_lag(self, asked: Client) -> None:
        found = samples(asked)
        assert (one(found, "queue_uplinks"), one(found, "queue_lag_seconds")) == (0, 0)
        concentrator = ConcentratorFactory.create()
        (device,) = fleet.commission(1, concentrator)
        fleet.post(concentrator, [device.frame(0)], timezone.now() - timedelta(seconds=90))
        found = samples(asked)
        assert one(found, "queue_uplinks") == 1
        assert 90 <= one(found, "queue_lag_seconds") < 100

    def test_who_is_heard_and_the_keys(self, asked: Client) -> None:
        heard, _new, silent = ConcentratorFactory.create_batch(3)
        Concentrator.objects.filter(pk=ConcentratorFactory.create().pk).update(is_active=False)
        device, _mute, off = fleet.commission(3, heard)
        Meter.objects.filter(pk=off.meter.pk).update(status="suspended")
        fleet.verified(heard, [device.frame(0)], timezone.now())
        UplinkFactory.create(concentrator=silent, received_at=timezone.now() - timedelta(days=1))
        take(timezone.now())
        found = samples(asked)
        for state, number in (("heard", 1), ("silent", 1), ("new", 1), ("inactive", 1)):
            assert one(found, "concentrators", state=state) == number
        for state in ("commissioned, heard", "commissioned, silent", "suspended"):
            assert one(found, "meters", state=state) == 1
        assert one(found, "device_keys", state="active", purpose="frames", source="stored") == 3
        assert one(found, "devices_by_scheme", scheme="ccm") == 3
        assert one(found, "secrets", master_key_version="1") == 3
        assert 0 <= one(found, "snapshot_age_seconds", snapshot="meters") < 60

    def test_meters_that_sign_by_coupons_left(self, asked: Client) -> None:
        concentrator = ConcentratorFactory.create()
        device = of_signed(concentrator)
        announce(of_signed(concentrator), 11, 1)
        signing(fleet.commission(1, concentrator)[0])
        fleet.verified(concentrator, [device.frame(0)])
        take(timezone.now())
        found = samples(asked)
        for left in ("none", "1 to 11", "more"):
            assert one(found, "meters_by_coupons_left", left=left) == 1

    def test_a_master_key_rotation(self, asked: Client) -> None:
        fleet.commission(2, None)
        assert one(samples(asked), "master_key_rotation_secrets", state="total") == 0
        rotation = rewrap.begin(1, chain.Actor("officer", "test"))
        rewrap.rewrap_batch(rotation.pk)
        found = samples(asked)
        assert one(found, "master_key_rotation_secrets", state="total") == rotation.total
        assert one(found, "master_key_rotation_secrets", state="rewrapped") == 1

    def test_alerts(self, asked: Client) -> None:
        now = timezone.now()
        rule = Rule.objects.get(condition=Condition.QUEUE_LAG)
        Alert.objects.create(rule=rule, severity=30, subject_kind="fleet", opened_at=now, seen_at=now)
        Rule.objects.update(evaluated_at=now - timedelta(minutes=5))
        Rule.objects.filter(pk=rule.pk).update(last_error="no")
        found = samples(asked)
        assert one(found, "open_alerts", severity="critical") == 1
        assert one(found, "open_alerts", severity="info") == 0
        assert one(found, "alert_rules_failing") == 1
        assert 300 <= one(found, "alert_evaluation_age_seconds") < 310
        assert one(found, "alert_messages_waiting") == 0

    def test_listeners(self, asked: Client) -> None:
        figures = Figures("mill 127.0.0.1:4059 wrapper")
        figures.counts.update(accepted=3, refused=1, notifications=20, committed=18, dropped=2)
        figures.tell(2)
        found = samples(asked)
        of = ("listener", "mill 127.0.0.1:4059 wrapper")

        def counted(name: str, **labels: str) -> float:
            return found[f"ami_headend_listener_{name}", tuple(sorted((*labels.items(), of)))]

        assert counted("open_connections") == 2
        assert [counted("connections_total", result=name) for name in ("accepted", "refused", "cut_off")] == [3, 1, 0]
        told = [counted("notifications_total", result=name) for name in ("whole", "committed", "dropped")]
        assert told == [20, 18, 2]


class TestDoor:
    def test_a_token_or_an_account_that_may_see_uplinks(self, asked: Client, settings: Settings) -> None:
        assert asked.get("/metrics").status_code == 200
        for header in ("Bearer other", "Bearer", "Bearer \u00e9", "Basic c2NyYXBl", "scrape"):
            answer = Client().get("/metrics", headers={"authorization": header})
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert person(roles.OPERATOR).get("/metrics").status_code == 200
        assert person().get("/metrics").status_code == 401
        settings.METRICS_TOKEN = ""
        assert asked.get("/metrics").status_code == 401
        assert Client().get("/metrics", headers={"authorization": "Bearer "}).status_code == 401
        assert person(roles.OPERATOR).post("/metrics").status_code == 405

    def test_both_formats(self, asked: Client) -> None:
        assert asked.get("/metrics").headers["Content-Type"].startswith("text/plain")
        answer = asked.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.content.endswith(b"# EOF\n")

    def test_the_cost_does_not_grow(self, asked: Client) -> None:
        def cost(meters: int) -> int:
            concentrator = ConcentratorFactory.create()
            fleet.verified(concentrator, [device.frame(0) for device in fleet.commission(meters, concentrator)])
            take(timezone.now() + timedelta(days=meters))
            with counting_statements() as statements:
                samples(asked)
                return len(statements)

        few = cost(1)
        assert cost(30) == few <= 30


def collector_labels() -> list[str]:
    """The labels of figures that may have no rows just now."""
    of_snapshots = [label for _, labels in collector._OF_SNAPSHOTS.values() for label in labels]
    # No mask authority is pinned here, no listener runs, the key journal has no mirror, nobody has subscribed to the
    # feed, no day was due, and nobody looks at the components.
    return [*of_snapshots, "authority", "host", "listener", "result", "subscription", "deadline", "mirror", "component"]


def test_processes_and_components(asked: Client) -> None:
    assert ("ami_headend_component_check_age_seconds", ()) not in samples(asked)
    Heartbeat.objects.create(
        name="web@one",
        kind=heartbeats.WEB,
        queues=[],
        processes=1,
        started_at=timezone.now(),
        beat_at=timezone.now(),
        clock_off_s=0,
        trouble="broker: Redis accepts nothing",
    )
    components.look()
    found = samples(asked)
    assert found["ami_headend_processes", (("kind", "web"),)] == 1
    assert found["ami_headend_processes", (("kind", "worker"),)] == 0
    assert found["ami_headend_processes_troubled", ()] == 1
    assert found["ami_headend_component_up", (("component", "hosts"),)] == 0
    assert found["ami_headend_component_up", (("component", "database"),)] == 1
    assert found["ami_headend_component_check_age_seconds", ()] < 60
    Heartbeat.objects.update(beat_at=timezone.now() - timedelta(minutes=1))
    found = samples(asked)
    assert found["ami_headend_processes", (("kind", "web"),)] == 0
    assert found["ami_headend_processes_lost", ()] == 1


def test_the_newest_day_of_each_deadline(asked: Client) -> None:
    now, deadline = timezone.now(), ReadDeadline.objects.get()
    one = ConcentratorFactory.create()
    for days, in_time in ((3, 10), (2, 97)):
        read_success.take_over(deadline, now.date() - timedelta(days=days), {one.pk: Success(100, in_time, 2)}, now)
    found = samples(asked)
    label = ("deadline", deadline.name)
    for state, number in (("expected", 100), ("in_time", 97), ("late", 2)):
        assert found["ami_headend_deadline_intervals", (label, ("state", state))] == number
    assert found["ami_headend_deadline_target_ratio", (label,)] == 0.98
    due = datetime.combine(now.date() - timedelta(days=1), deadline.due_time, UTC).timestamp()
    assert found["ami_headend_deadline_due_seconds", (label,)] == due


def test_mirrors_of_the_key_journal(asked: Client, settings: Settings, tmp_path: Path) -> None:
    own, near, far = [tmp_path / name for name in ("own", "near", "far")]
    near.mkdir()
    far.mkdir()
    settings.KEY_JOURNAL_DIR = own
    settings.KEY_JOURNAL_MIRRORS = [str(near)]
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "all"
    settings.KEY_JOURNAL_MIRROR_S = 60.0
    for number in (1, 2, 3):
        writing.write(JournalRecord(number, number, "test", None))
    settings.KEY_JOURNAL_MIRRORS = [str(near), str(far), str(tmp_path / "gone")]
    found = samples(asked)
    assert one(found, "journal_mirror_records_behind", mirror=str(near)) == 0
    assert one(found, "journal_mirror_records_behind", mirror=str(far)) == 3
    [path] = near.glob("*.journal")
    assert one(found, "journal_mirror_written_seconds", mirror=str(near)) == path.stat().st_mtime
    ups = [one(found, "journal_mirror_up", mirror=str(tmp_path / name)) for name in ("near", "far", "gone")]
    assert ups == [1, 1, 0]
    (far / path.name).write_bytes(path.read_bytes()[:-1])  # cut off within the third
    assert one(samples(asked), "journal_mirror_records_behind", mirror=str(far)) == 1
    (far / path.name).write_bytes(path.read_bytes() + b"more")
    assert one(samples(asked), "journal_mirror_up", mirror=str(far)) == 0


def test_a_file_of_the_key_journal_that_is_renamed_meanwhile_fails_no_scrape(
    asked: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    settings.KEY_JOURNAL_DIR = tmp_path / "own"
    settings.KEY_JOURNAL_MIRROR_S = 60.0
    writing.write(JournalRecord(1, 1, "test", None))
    settings.KEY_JOURNAL_MIRRORS = [str(far)]
    look = mirrors.standings

    def renamed(segments: Sequence[Segment]) -> list[Standing]:
        found = look(segments)
        writing.set_aside(segments[0])
        return found

    monkeypatch.setattr(mirrors, "standings", renamed)
    found = samples(asked)
    assert one(found, "journal_mirror_up", mirror=str(far)) == 1
    assert one(found, "database_up") == 1
    assert not [name for name, _ in found if name == "ami_headend_journal_mirror_records_behind"]


def test_the_dashboard_asks_only_for_what_there_is(asked: Client) -> None:
    take(timezone.now())
    components.look()
    Rule.objects.update(evaluated_at=timezone.now())
    text = asked.get("/metrics").content.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = set(families) | {f"{name}_total" for name, f in families.items() if f.type == "counter"}
    names |= {
        f"{name}_{part}" for name, f in families.items() if f.type == "histogram" for part in ("bucket", "count", "sum")
    }
    dashboard = DASHBOARD.read_text()
    used = set(re.findall(r"ami_headend_[a-z_]+", dashboard))
    assert used <= names
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used} >= {
        re.sub(r"_total$", "", name) for name in families
    }, "a metric that no panel shows"
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    labels |= set(collector_labels())
    asked_for = {
        label.strip()
        for found in re.findall(r"(?:by|without) \(([a-z_, ]+)\)", dashboard)
        for label in found.split(",")
    }
    assert asked_for <= labels
    verdicts = {dict(labels)["verdict"] for name, labels in samples(asked) if name == "ami_headend_frames_total"}
    assert {"accepted", "duplicate", "tag_invalid"} < verdicts
    panels = json.loads(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
