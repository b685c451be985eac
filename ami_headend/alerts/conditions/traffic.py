"""Conditions about meters and concentrators: failures, events, silence, gaps. A fixed number of statements each.

Most statements return (id, name, figures ..., total number), subjects with open alerts first.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from ami_headend.alerts import storms
from ami_headend.alerts.conditions.finding import SUBJECTS_KEPT, SUBJECTS_MAX, Finding, Findings, within
from ami_headend.alerts.high_water_marks import marked_before
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core import keyset
from ami_headend.core.sql import fetch_rows, int_array
from ami_headend.core.text import counted
from concentrators.failures.kinds import FailureKind
from concentrators.fleet import groups, health, outages
from concentrators.fleet.laboratory import IS_OF_LABORATORY
from concentrators.models import Concentrator
from concentrators.totals import expected
from concentrators.totals.completeness import shares
from keyvault.device_keys import last_heard
from meters.codes import event_codes
from meters.codes.event_codes import Outage
from meters.codes.severity import Severity
from meters.models import MeterStatus
from meters.readings import event_queries
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from meters.registry import site_codes

FRAMES_MIN = 20  # fewer frames give no meaningful rate
SETTLING = timedelta(hours=2)  # concentrators may post this late before an interval counts as missing
# The tag of these frames verified, so the named meter did send them. All other frames only claim to be from a meter.
AUTHENTIC = frozenset(
    {
        FailureKind.COUNTER_REUSED,
        FailureKind.COUNTER_TOO_OLD,
        FailureKind.SESSION_CLOSED,
        FailureKind.REPLAYED,
        FailureKind.DEVICE_SUSPENDED,
        FailureKind.PAYLOAD_INVALID,
        FailureKind.UNKNOWN_PROFILE,
        FailureKind.UNKNOWN_REGISTER,
        FailureKind.REGISTRY_MISMATCH,
        FailureKind.IMPLAUSIBLE,
        FailureKind.IDENTITY_MISMATCH,
        FailureKind.CLOCK_SKEW,
        FailureKind.TOO_OLD,
        FailureKind.READING_CONFLICT,
        FailureKind.COUPON_UNKNOWN,
        FailureKind.SIGNATURE_INVALID,
        FailureKind.COUPON_REUSED,
    }
)


def failure_rate(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find concentrators with too large a share of rejected frames among those verified within the period.

    Rejected frames of laboratory meters do not count.
    """
    scope, ids = within(rule, concentrator="c.id")
    rows = fetch_rows(
        f"""SELECT c.id, c.name, s.rejected, s.frames, count(*) OVER ()
           FROM (SELECT u.concentrator_id, (sum(u.rejected) - coalesce(max(l.rejected), 0))::bigint AS rejected,
                        sum(u.frames)::bigint AS frames
                 FROM concentrators_uplink u LEFT JOIN (
                     SELECT v.concentrator_id, count(*) AS rejected
                     FROM concentrators_integrityfailure f JOIN concentrators_uplink v ON v.id = f.uplink_id
                     WHERE f.meter_id IN (SELECT id FROM meters_meter WHERE is_laboratory) AND v.verified_at >= %s
                       AND {IS_OF_LABORATORY.format(failure="f")}
                     GROUP BY v.concentrator_id
                 ) l ON l.concentrator_id = u.concentrator_id
                 WHERE u.verified_at >= %s GROUP BY u.concentrator_id) s
           JOIN concentrators_concentrator c ON c.id = s.concentrator_id
           WHERE s.frames >= %s AND s.rejected * 100.0 >= s.frames * %s::float8 AND s.rejected > 0
                 AND {scope}
           ORDER BY c.id = ANY(%s::int[]) DESC, s.rejected DESC, c.id LIMIT %s""",
        _since(rule, now),
        _since(rule, now),
        FRAMES_MIN,
        rule.threshold,
        *ids,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    return _found(
        SubjectKind.CONCENTRATOR,
        rows,
        lambda rejected, frames: (
            f"{rejected:,} of {counted(frames, 'frame')} rejected ({100 * rejected / frames:.1f} %)"
        ),
    )


def kind_seen(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find meters with failures of a kind within the period; concentrators, if such frames do not prove their meter.

    What a concentrator says of a meter that it may not speak for is the concentrator's failure, of whatever kind.
    Failures of laboratory meters do not count.
    """
    kind = FailureKind(rule.selector)
    scope, ids = within(rule, meter="meter_id", concentrator="f.concentrator_id")
    rows = fetch_rows(
        f"""WITH s AS (
               SELECT CASE WHEN %s THEN meter_id END AS meter_id,
                      CASE WHEN NOT %s OR meter_id IS NULL THEN concentrator_id END AS concentrator_id,
                      count(*) AS failures, max(received_at) AS latest
               FROM concentrators_integrityfailure f WHERE kind = %s AND id > %s AND NOT is_copy
                 AND NOT {IS_OF_LABORATORY.format(failure="f")} AND {scope}
               GROUP BY 1, 2 HAVING count(*) >= %s::float8
           )
           SELECT coalesce(m.id, c.id), coalesce(m.serial_number, c.name), s.failures, s.latest, count(*) OVER (),
                  m.id IS NOT NULL
           FROM s LEFT JOIN meters_meter m ON m.id = s.meter_id
                LEFT JOIN concentrators_concentrator c ON c.id = s.concentrator_id
           WHERE coalesce(m.id, c.id) IS NOT NULL
           ORDER BY m.id IS NULL, coalesce(m.id, c.id) = ANY(%s::int[]) DESC, s.failures DESC, 1 LIMIT %s""",
        kind in AUTHENTIC,
        kind in AUTHENTIC,
        kind.value,
        marked_before(_since(rule, now)).failure_id,
        *ids,
        rule.threshold,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    listed = [
        Finding(
            SubjectKind.METER if is_meter else SubjectKind.CONCENTRATOR,
            row_id,
            name,
            f"{kind.label}: {_times(failures)}, the last received {latest:%Y-%m-%d %H:%M:%S} UTC",
        )
        for row_id, name, failures, latest, _, is_meter in rows
    ]
    return Findings(rows[0][4] if rows else 0, listed)


def meter_event(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find meters with events of a log, a code or a severity within the period, but for laboratory meters.

    Outages of many meters of a concentrator do not count, and of a severity no outage does: they have a condition of
    their own (``outage``), with one alert for each concentrator instead of one for each meter.
    """
    wanted, params = _events_of(rule, now)
    scope, ids = within(rule, meter="m.id")
    rows = fetch_rows(
        f"""SELECT m.id, m.serial_number, s.events, s.latest, count(*) OVER ()
           FROM (SELECT meter_id, count(*) AS events, max(captured_at) AS latest
                 FROM meters_meterevent
                 WHERE id > %s AND {wanted} GROUP BY meter_id HAVING count(*) >= %s::float8) s
           JOIN meters_meter m ON m.id = s.meter_id AND NOT m.is_laboratory AND {scope}
           ORDER BY m.id = ANY(%s::int[]) DESC, s.latest DESC, m.id LIMIT %s""",
        marked_before(_since(rule, now)).event_id,
        *params,
        rule.threshold,
        *ids,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    return _found(
        SubjectKind.METER,
        rows,
        lambda events, latest: f"{_times_of(events, rule.selector)}, the last at {latest:%Y-%m-%d %H:%M} UTC",
    )


def _events_of(rule: Rule, now: datetime) -> tuple[str, list[Any]]:
    """Return the condition for events of a log, a severity, or a code (log/code), and its values.

    Without outages of many meters of a concentrator; of a severity, without any.
    """
    selector, codes = rule.selector, site_codes.events()
    (of_outage,), values = keyset.given(
        event_queries.coded([*codes.of_outage(Outage.BEGINS), *codes.of_outage(Outage.ENDS)])
    )
    if selector not in (STANDARD_LOG, FRAUD_LOG) and "/" not in selector:
        severe, params = keyset.given(event_queries.at_least(Severity[selector.upper()], codes))
        return " AND ".join([*severe, f"NOT {of_outage}"]), [*params, *values]
    chosen, params = "register_id = (SELECT id FROM meters_register WHERE obis_code = %s)", [selector]
    if "/" in selector:
        (chosen,), params = keyset.given(event_queries.coded([event_codes.parse_key(selector)]))
    together = int_array(storms.meters(now, _since(rule, now)))
    return f"{chosen} AND NOT ({of_outage} AND meter_id = ANY(%s::int[]))", [*params, *values, together]


def _times_of(events: int, selector: str) -> str:
    number = f"{events:,} event{'s' * (events != 1)}"
    if selector in (STANDARD_LOG, FRAUD_LOG):
        return f"{number} in the log {selector}"
    return f"{number} with the code {selector}" if "/" in selector else f"{number} of severity {selector} or worse"


def outage(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find concentrators with so many meters whose power went within the period and is not back.

    What was found once is found as long as so many are out.
    """
    codes, mine = site_codes.events(), None if rule.group_id is None else [rule.group_id]
    found = outages.by_concentrator(codes, now, _since(rule, now), mine)
    lately = {one.id for one in found}
    if open_ids:
        whole = outages.by_concentrator(codes, now, None, mine)
        found += [one for one in whole if one.id in open_ids and one.id not in lately]
    many = [one for one in found if one.id is not None and one.out >= (rule.threshold or 0)]
    many.sort(key=lambda one: (one.id not in open_ids, -one.out, one.id))
    in_group = "" if mine is None else " in the group"
    listed = [
        Finding(
            SubjectKind.CONCENTRATOR,
            one.id or 0,
            one.name,
            f"{one.out:,} of its {counted(one.meters, 'meter')}{in_group} said that their power went, "
            "and nothing since; "
            f"the first at {one.since:%Y-%m-%d %H:%M} UTC, the last at {one.latest:%Y-%m-%d %H:%M} UTC",
        )
        for one in many[:SUBJECTS_KEPT]
    ]
    return Findings(len(many), listed)


def aggregate_mismatch(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Concentrators whose sums have differed from ours for the whole period; the summary gives both newest figures."""
    since = _since(rule, now)
    scope, ids = within(rule, concentrator="c.id")
    rows = fetch_rows(
        f"""SELECT c.id, c.name, n.value_sum, n.meters_counted, n.own_sum, n.own_meters, n.interval_start, s.sums,
                  count(*) OVER ()
           FROM (SELECT concentrator_id, count(*) AS sums FROM concentrators_reportedsum
                 WHERE differs_since <= %s GROUP BY concentrator_id) s
           JOIN concentrators_concentrator c ON c.id = s.concentrator_id AND {scope},
           LATERAL (SELECT * FROM concentrators_reportedsum r WHERE r.concentrator_id = c.id AND r.differs_since <= %s
                    ORDER BY r.interval_start DESC LIMIT 1) n
           ORDER BY c.id = ANY(%s::int[]) DESC, s.sums DESC, c.id LIMIT %s""",
        since,
        *ids,
        since,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    listed = [
        Finding(
            SubjectKind.CONCENTRATOR,
            row_id,
            name,
            f"it adds up {said:,} over {counted(of, 'meter')}, we {own:,} over {here:,}, "
            f"from {start:%Y-%m-%d %H:%M} UTC on;"
            f" {counted(sums, 'sum differs', 'sums differ')}",
        )
        for row_id, name, said, of, own, here, start, sums, _ in rows
    ]
    return Findings(rows[0][-1] if rows else 0, listed)


def silent_concentrator(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find active concentrators that have not posted within the period; one that never posted only if it has meters."""
    mine = _concentrators(rule)
    silent = [
        one
        for one in health.of_concentrators(_since(rule, now), now)
        if one.is_silent and (mine is None or one.id in mine)
    ]
    silent.sort(key=lambda one: (one.id in open_ids, one.known_since.timestamp(), -one.id), reverse=True)
    listed = [
        Finding(SubjectKind.CONCENTRATOR, one.id, one.name, _not_heard(one.posted_at, one.created_at, "posted nothing"))
        for one in silent[:SUBJECTS_KEPT]
    ]
    return Findings(len(silent), listed)


def silent_meter(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find meters in service with no accepted frame within the period, and mention frames that were rejected.

    Meters of a silent concentrator are left out: it is the cause, and has an alert of its own. So are meters that are
    out with others (``storms``), and laboratory meters. Reads every meter.
    """
    since = _since(rule, now)
    standing = health.of_concentrators(since, now)
    scope, ids = within(rule, meter="m.id")
    quiet = [one.id for one in standing if not one.is_active or one.posted_at is None or one.posted_at < since]
    rows = fetch_rows(
        f"""WITH silent AS (
                SELECT m.id, m.serial_number, m.system_title, m.commissioned_at FROM meters_meter m
                WHERE m.status = %s AND m.commissioned_at < %s AND NOT m.is_laboratory AND NOT {expected.TAKEN_DOWN}
                  AND NOT {last_heard.SINCE.format(title="m.system_title")} AND {scope}
            ), behind AS MATERIALIZED (
                SELECT meter_id FROM concentrators_assignment WHERE concentrator_id = ANY(%s::int[])
                AND valid_from <= %s AND (valid_to IS NULL OR valid_to > %s) UNION ALL SELECT unnest(%s::int[])
            ), shown AS (
                SELECT s.*, count(*) OVER () AS total,
                       row_number() OVER (ORDER BY s.id = ANY(%s::int[]) DESC, s.id) AS place FROM silent s
                WHERE NOT EXISTS (SELECT 1 FROM behind b WHERE b.meter_id = s.id)
                ORDER BY place LIMIT %s
            )
            SELECT s.id, s.serial_number, h.heard_at, s.commissioned_at, f.failures, f.last_at, f.kind, s.total
            FROM shown s
            {last_heard.LAST.format(title="CASE WHEN s.place <= %s THEN s.system_title END")}
            LEFT JOIN LATERAL (
                SELECT sum(g.failures)::bigint AS failures, max(g.last_at) AS last_at,
                       (array_agg(g.kind ORDER BY g.last_at DESC))[1] AS kind
                FROM concentrators_failuregroup g
                WHERE s.place <= %s AND g.meter_id = s.id AND (h.heard_at IS NULL OR g.last_at >= h.heard_at)
            ) f ON true
            ORDER BY s.place""",
        MeterStatus.COMMISSIONED.value,
        since,
        since,
        *ids,
        int_array(quiet),
        now,
        now,
        int_array(storms.meters(now)),
        int_array(open_ids),
        SUBJECTS_KEPT,
        SUBJECTS_MAX,
        SUBJECTS_MAX,
    )
    listed = []
    for row_id, name, heard_at, made, *refused, _ in rows:
        said = _not_heard(heard_at, made, "no frame accepted") + _but_refused(*refused, is_all=heard_at is None)
        listed.append(Finding(SubjectKind.METER, row_id, name, said))
    return Findings(rows[0][-1] if rows else 0, listed)


def completeness(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find concentrators with too small a share of their expected intervals, over the period that ended SETTLING ago.

    Concentrators without any interval are left out: they have other alerts.
    """
    end = (now - SETTLING).replace(minute=0, second=0, microsecond=0)
    start = end - timedelta(minutes=rule.period_minutes or 0)
    mine = _concentrators(rule)
    lacking = [
        share
        for share in shares(expected.spans(start, end), start, end)
        if (mine is None or share.concentrator_id in mine)
        and share.counted
        and 100 * share.counted < share.expected * (rule.threshold or 0)
    ]
    shown = sorted(lacking, key=lambda share: share.concentrator_id not in open_ids)[:SUBJECTS_KEPT]
    named = Concentrator.objects.filter(pk__in=[share.concentrator_id for share in shown])
    names = dict(named.values_list("pk", "name"))
    period = f"{start:%Y-%m-%d %H:%M} UTC to {end:%Y-%m-%d %H:%M} UTC"
    listed = [
        Finding(
            SubjectKind.CONCENTRATOR,
            share.concentrator_id,
            names[share.concentrator_id],
            f"{share.counted:,} of {counted(share.expected, 'interval')} are there "
            f"({100 * share.counted / share.expected:.1f} %), {period}",
        )
        for share in shown
    ]
    return Findings(len(lacking), listed)


def _concentrators(rule: Rule) -> set[int] | None:
    """Return the concentrators of the rule's group; None for all."""
    return None if rule.group_id is None else set(groups.concentrator_ids([rule.group_id]))


def _since(rule: Rule, now: datetime) -> datetime:
    return now - timedelta(minutes=rule.period_minutes or 0)


def _found(kind: SubjectKind, rows: list[tuple[Any, ...]], summary: Callable[[Any, Any], str]) -> Findings:
    listed = [Finding(kind, row_id, name, summary(one, other)) for row_id, name, one, other, _ in rows]
    return Findings(rows[0][-1] if rows else 0, listed)


def _not_heard(heard_at: datetime | None, made_at: datetime, what: str) -> str:
    if heard_at is None:
        return f"{what} ever, known since {made_at:%Y-%m-%d %H:%M} UTC"
    return f"{what} since {heard_at:%Y-%m-%d %H:%M:%S} UTC"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _but_refused(failures: int | None, last_at: datetime | None, kind: str | None, *, is_all: bool) -> str:
    """Describe rejected frames of the meter; give their number if the meter never had an accepted one (``is_all``)."""
    if not failures or last_at is None or kind is None:
        return ""
    many = f"{failures:,} came and" if is_all else "some came since and"
    were = "was" if is_all and failures == 1 else "were"
    return f"; {many} {were} refused, the last at {last_at:%Y-%m-%d %H:%M:%S} UTC: {FailureKind(kind).label}"
