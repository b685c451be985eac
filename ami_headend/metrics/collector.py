"""The metrics of Prometheus: a fixed number of statements, none of which grows with the fleet."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from django.db.models import Max
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ami_headend import cached_answers, schedule_lease
from ami_headend.alerts import queries
from ami_headend.alerts.models import Delivery, Rule
from ami_headend.core import clock
from ami_headend.core.database_errors import Trouble, close_spoilt_connections, trouble_of
from ami_headend.health import components, heartbeats
from ami_headend.metrics import counting, snapshots
from ami_headend.siem import pending
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.feed import sequencer, subscriptions
from concentrators.ingest import backlog
from concentrators.listener import figures as listener_figures
from concentrators.totals import masked_queries, read_success
from keyvault import master_key
from keyvault.journal import mirrors, writing
from keyvault.master_key import MasterKeyError, rewrap

logger = logging.getLogger(__name__)

PREFIX = "ami_headend_"
_VERDICTS = ("accepted", "duplicate", *(kind.value for kind in FailureKind))
_OF_SNAPSHOTS = {
    "meters": ("Meters by state; silent: no frame accepted for 24 hours", ["state"]),
    "concentrators": ("Concentrators by state; silent: for as long as the rule of its alert says", ["state"]),
    "device_keys": ("Device keys by state, purpose and source", ["state", "purpose", "source"]),
    "schemes": ("Meters, and concentrators that hold keys, by the scheme of their active key", ["scheme"]),
    "coupons": ("Meters that sign their readings, by announced coupons left: none, 1 to 11, more", ["left"]),
    "secrets": ("Secrets by the master key version that wraps them", ["master_key_version"]),
    "waves": ("Meters of open rotation waves, by the state of their key command", ["wave", "name", "state"]),
}
_NAMES = {"schemes": "devices_by_scheme", "coupons": "meters_by_coupons_left", "waves": "wave_meters"}


class DatabaseCollector(Collector):
    """Queries the database at each collection."""

    def collect(self) -> Iterator[Metric]:
        yield from _components()
        now = timezone.now()
        answers = True
        looks = (_counters, _queue, _schedule, _hosts, _checks, _rotation, _alerts, _siem, _masked, _deadlines, _feed)
        for look in (*looks, _listeners, _snapshots):
            try:
                found = list(look(now))
            except Exception as error:
                trouble = trouble_of(error)
                if trouble is None:
                    raise
                logger.warning("metrics: the database %s", trouble.value)
                close_spoilt_connections(trouble)
                answers = False
                if trouble is Trouble.AWAY:
                    break  # each further query would wait as long
            else:
                yield from found
        yield GaugeMetricFamily(f"{PREFIX}database_up", "1: the database answered every question", value=answers)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registration needs no database."""
        return iter(())


def registry() -> CollectorRegistry:
    """Return a registry with only this collector."""
    found = CollectorRegistry()
    found.register(DatabaseCollector())
    return found


def _counters(now: datetime) -> Iterator[Metric]:
    counted, _ = counting.count()  # a batch at most, so that the answer does not take long: workers count the rest
    frames = CounterMetricFamily(f"{PREFIX}frames", "Frames by verdict, as first given", labels=["verdict"])
    for verdict in _VERDICTS:
        frames.add_metric([verdict], counted.frames.get(verdict, 0))
    yield frames
    yield CounterMetricFamily(f"{PREFIX}uplinks_verified", "Uplinks that were verified", value=counted.uplinks)
    yield CounterMetricFamily(f"{PREFIX}uplink_octets", "Octets of verified uplinks", value=counted.octets)
    latencies = counted.latencies or [0] * (len(counting.BOUNDS_S) + 1)
    bounds = [*map(str, counting.BOUNDS_S), "+Inf"]
    cumulative = [(bound, float(sum(latencies[: index + 1]))) for index, bound in enumerate(bounds)]
    yield HistogramMetricFamily(
        f"{PREFIX}verification_latency_seconds",
        "Time from post to verification of uplinks",
        cumulative,
        counted.latency_s,
    )


def _queue(now: datetime) -> Iterator[Metric]:
    queue = backlog.waiting()
    oldest = queue.oldest_received_at
    lag_s = clock.age_s(oldest, now) if oldest else 0.0
    yield GaugeMetricFamily(f"{PREFIX}queue_uplinks", "Uplinks that wait for verification", value=queue.uplinks)
    yield GaugeMetricFamily(f"{PREFIX}queue_lag_seconds", "Age of the oldest of them", value=lag_s)


def _schedule(now: datetime) -> Iterator[Metric]:
    """Yield which host's beat is at work, for how long still."""
    lease = GaugeMetricFamily(
        f"{PREFIX}schedule_lease_seconds",
        "Rest of the lease of the beat at work, renewed every two seconds; not above 0: none is",
        labels=["host"],
    )
    at_work = schedule_lease.holder()
    if at_work is not None:
        lease.add_metric([at_work.host], at_work.left_s)
    yield lease


def _hosts(now: datetime) -> Iterator[Metric]:
    """Yield how many processes of each kind live, and how many of all were lost or find something wrong."""
    living = heartbeats.living()
    processes = GaugeMetricFamily(
        f"{PREFIX}processes", "Workers, schedules and web servers that give signs of life", labels=["kind"]
    )
    for kind in (heartbeats.WORKER, heartbeats.SCHEDULE, heartbeats.WEB):
        processes.add_metric([kind], sum(one.kind == kind for one in living))
    yield processes
    lost, troubled = len(heartbeats.lost()), sum(bool(one.trouble) for one in living)
    yield GaugeMetricFamily(f"{PREFIX}processes_lost", "Those that ended without a word within a day", value=lost)
    yield GaugeMetricFamily(
        f"{PREFIX}processes_troubled", "Those that reach no broker, or find a fault on their host", value=troubled
    )


def _checks(now: datetime) -> Iterator[Metric]:
    """Yield what doctor found when a worker, or a web host in its place, looked last."""
    standing = components.standing()
    up = GaugeMetricFamily(f"{PREFIX}component_up", "1: the component was well when looked at", labels=["component"])
    for one in standing.results:
        up.add_metric([one.name], one.well)
    yield up
    if standing.age_s is not None:
        yield GaugeMetricFamily(
            f"{PREFIX}component_check_age_seconds", "Time since the components were looked at", value=standing.age_s
        )


def _components() -> Iterator[Metric]:
    """Yield metrics that need no database."""
    try:
        master_key.probe()
        opens = True
    except MasterKeyError:
        opens = False
    yield GaugeMetricFamily(f"{PREFIX}master_key_up", "1: the master key can be used", value=opens)
    yield from _mirrors()


def _mirrors() -> Iterator[Metric]:
    """Yield how the mirrors of this host's key journal stand; no samples without one, or if it cannot be read."""
    up = GaugeMetricFamily(
        f"{PREFIX}journal_mirror_up", "1: it can be read, and is alike as far as it goes", labels=["mirror"]
    )
    behind = GaugeMetricFamily(
        f"{PREFIX}journal_mirror_records_behind", "Records of this host that it lacks", labels=["mirror"]
    )
    written = GaugeMetricFamily(
        f"{PREFIX}journal_mirror_written_seconds", "When it was last written, Unix time", labels=["mirror"]
    )
    try:
        standings = mirrors.standings(writing.own_segments()) if mirrors.folders() else []
    except MasterKeyError as error:
        logger.warning("metrics: %s", error)
        standings = []
    for one in standings:
        name = str(one.folder)
        up.add_metric([name], not one.trouble)
        if not one.trouble:
            with suppress(FileNotFoundError):  # `journal mirror` gives a file another name: the next scrape finds it
                behind.add_metric([name], one.records)
            written.add_metric([name], one.written_at)
    yield from (up, behind, written)


def _rotation(now: datetime) -> Iterator[Metric]:
    rotation = rewrap.current()
    progress = GaugeMetricFamily(
        f"{PREFIX}master_key_rotation_secrets",
        "Secrets of the open master key rotation; all 0 if there is none",
        labels=["state"],
    )
    for state in ("total", "rewrapped", "unreadable"):
        progress.add_metric([state], getattr(rotation, state) if rotation else 0)
    yield progress


def _alerts(now: datetime) -> Iterator[Metric]:
    counts = queries.count_by_severity(now)
    open_ = GaugeMetricFamily(f"{PREFIX}open_alerts", "Open alerts that are not snoozed", labels=["severity"])
    for severity in Severity:
        open_.add_metric([severity.name.lower()], counts.get(severity.value, 0))
    yield open_
    waiting = Delivery.objects.filter(delivered_at=None, given_up_at=None).count()
    yield GaugeMetricFamily(f"{PREFIX}alert_messages_waiting", "Messages of alerts not delivered yet", value=waiting)
    rules = Rule.objects.filter(is_enabled=True)
    failing = rules.exclude(last_error="").count()
    yield GaugeMetricFamily(f"{PREFIX}alert_rules_failing", "Rules that could not be evaluated", value=failing)
    latest = rules.aggregate(at=Max("evaluated_at"))["at"]
    if latest is not None:
        age_s = clock.age_s(latest, now)
        yield GaugeMetricFamily(
            f"{PREFIX}alert_evaluation_age_seconds",
            "Time since the last evaluation of rules, by a worker or a web host; negative if a clock was ahead",
            value=age_s,
        )


def _siem(now: datetime) -> Iterator[Metric]:
    found = pending.backlog()
    lag_s = clock.age_s(found.oldest_at, now) if found.oldest_at else 0.0
    waiting, sent = found.waiting, found.shipping.sent
    yield GaugeMetricFamily(f"{PREFIX}siem_events_waiting", "Security events that wait for the SIEM", value=waiting)
    yield GaugeMetricFamily(f"{PREFIX}siem_lag_seconds", "Age of the oldest of them", value=lag_s)
    yield CounterMetricFamily(f"{PREFIX}siem_events_sent", "Security events that the SIEM has read", value=sent)


def _masked(now: datetime) -> Iterator[Metric]:
    sets, questions = masked_queries.open_numbers()
    yield GaugeMetricFamily(f"{PREFIX}masked_sets_open", "Sets of masked values without a total yet", value=sets)
    open_ = GaugeMetricFamily(
        f"{PREFIX}mask_questions_open", "Sets that a mask authority has not answered for", labels=["authority"]
    )
    for name, number in questions.items():
        open_.add_metric([name], number)
    yield open_


def _deadlines(now: datetime) -> Iterator[Metric]:
    """Yield the newest counted day of each active deadline of readings."""
    intervals = GaugeMetricFamily(
        f"{PREFIX}deadline_intervals",
        "Intervals of the newest day that was due: expected, in time, and late so far",
        labels=["deadline", "state"],
    )
    target = GaugeMetricFamily(f"{PREFIX}deadline_target_ratio", "Share of them to be in time", labels=["deadline"])
    due = GaugeMetricFamily(f"{PREFIX}deadline_due_seconds", "When that day was due, Unix time", labels=["deadline"])
    for day in read_success.newest_days(now):
        name = day.deadline.name
        for state, number in (("expected", day.expected), ("in_time", day.in_time), ("late", day.late)):
            intervals.add_metric([name, state], number)
        target.add_metric([name], float(day.target_percent) / 100)
        due.add_metric([name], day.due_at.timestamp())
    yield from (intervals, target, due)


def _feed(now: datetime) -> Iterator[Metric]:
    head, waiting = sequencer.head(), sequencer.unnumbered()
    yield CounterMetricFamily(f"{PREFIX}feed_positions", "Positions of the feed that were given", value=head.position)
    lag_s = clock.age_s(waiting.oldest_at, now) if waiting.oldest_at else 0.0
    yield GaugeMetricFamily(f"{PREFIX}feed_unnumbered_lots", "Transactions without a position yet", value=waiting.lots)
    yield GaugeMetricFamily(f"{PREFIX}feed_unnumbered_seconds", "Age of the oldest of them", value=lag_s)
    rows = GaugeMetricFamily(f"{PREFIX}feed_rows_behind", "Rows after a subscription", labels=["subscription"])
    lag = GaugeMetricFamily(f"{PREFIX}feed_lag_seconds", "Age of the oldest of them", labels=["subscription"])
    gone = GaugeMetricFamily(f"{PREFIX}feed_cursor_gone", "1: it cannot be followed", labels=["subscription"])
    sent = CounterMetricFamily(
        f"{PREFIX}feed_delivered_rows", "Rows that its receiver has taken, of a delivery", labels=["subscription"]
    )
    batches = CounterMetricFamily(f"{PREFIX}feed_deliveries", "Batches of them", labels=["subscription"])
    failures = GaugeMetricFamily(
        f"{PREFIX}feed_delivery_failures", "Failed attempts since the last batch", labels=["subscription"]
    )
    for one in subscriptions.standings(now):
        rows.add_metric([one.name], one.rows)
        lag.add_metric([one.name], one.lag.total_seconds())
        gone.add_metric([one.name], one.is_gone)
        if one.delivery is not None:
            sent.add_metric([one.name], one.delivery.rows_sent)
            batches.add_metric([one.name], one.delivery.batches)
            failures.add_metric([one.name], one.delivery.attempts)
    yield from (rows, lag, gone, sent, batches, failures)


def _listeners(now: datetime) -> Iterator[Metric]:
    """Yield what listeners for DLMS meters count; each tells the database every few seconds."""
    open_ = GaugeMetricFamily(f"{PREFIX}listener_open_connections", "Connections of DLMS meters", labels=["listener"])
    ended = CounterMetricFamily(
        f"{PREFIX}listener_connections",
        "Connections of DLMS meters: accepted; of all, those that were refused, or cut off amid a notification",
        labels=["listener", "result"],
    )
    notifications = CounterMetricFamily(
        f"{PREFIX}listener_notifications",
        "Notifications that came whole; of these, those committed for verification, and those dropped",
        labels=["listener", "result"],
    )
    for name, connections, counts in listener_figures.recent():
        open_.add_metric([name], connections)
        for result in ("accepted", "refused", "cut_off"):
            ended.add_metric([name, result], counts[result])
        for result, counted in (("whole", "notifications"), ("committed", "committed"), ("dropped", "dropped")):
            notifications.add_metric([name, result], counts[counted])
    yield from (open_, ended, notifications)


def _snapshots(now: datetime) -> Iterator[Metric]:
    age = GaugeMetricFamily(f"{PREFIX}snapshot_age_seconds", "Age of the costly figures", labels=["snapshot"])
    standing = cached_answers.standing(list(snapshots.QUESTIONS.values()))
    for name, question in snapshots.QUESTIONS.items():
        if (answer := standing.get(question.name)) is None:
            continue
        text, labels = _OF_SNAPSHOTS[name]
        family = GaugeMetricFamily(f"{PREFIX}{_NAMES.get(name, name)}", text, labels=labels)
        for *values, number in answer.found:
            family.add_metric([*map(str, values)], number)
        yield family
        age.add_metric([name], clock.age_s(answer.taken_at, now))
    yield age
