"""Gathers the facts for deciding frames, with a fixed number of queries, whatever the number of frames."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings

from ami_headend.core.sql import fetch_rows, int_array
from concentrators.failures import record
from concentrators.ingest import hop_reports
from concentrators.ingest.facts import (
    NOTHING_EARLIER,
    Batch,
    Delivery,
    Earlier,
    Facts,
    Frames,
    OpenedUplink,
    SumInterval,
)
from concentrators.ingest.frame_checks import Examined
from concentrators.ingest.meter_cache import KeptMeters
from concentrators.ingest.signed_readings import is_signed
from concentrators.models import Concentrator
from concentrators.totals import reported_sums, totals
from keyvault.ciphers import KeptCiphers
from keyvault.coupons import store as coupon_store
from keyvault.coupons.verifying import Coupons
from keyvault.device_keys import hop_meter_epochs
from keyvault.enrolment.opening import Enrolling, open_enrolments
from keyvault.models import KeyState
from keyvault.opening import Opening, open_frames
from keyvault.replay_window_store import Care
from keyvault.schemes.table import HOP
from meters.contents.push import PUSH
from meters.contents.report import REPORT, sum_intervals
from meters.contents.signed import SIGNED
from meters.readings import masked_store
from meters.readings import store as reading_store
from meters.readings.partitions import retention_start
from meters.readings.store import NO_REGISTERS, Registers
from meters.values import MASKED, Spot, Standing

_PENDING = KeyState.PENDING.value


class Gathered(NamedTuple):
    """A batch with its facts, the opening whose counters it takes, and, by kid, the keys of meters that enrol."""

    batch: Batch
    facts: Facts
    opening: Opening
    enrolling: Mapping[bytes, Enrolling]


def gather(
    uplinks: Sequence[tuple[Delivery, Frames]],
    care: Care,
    ciphers: KeptCiphers,
    meters: KeptMeters,
    registers: Registers,
) -> Gathered:
    """Open the frames of uplinks, and read their meters and the registers unless the worker has them cached.

    ContendedError if a key was cancelled meanwhile, MasterKeyError if keys do not open.
    """
    posted = [frames for _, frames in uplinks]
    opening = open_frames(posted, care, ciphers)
    enrolling = open_enrolments(opening, posted, [int(delivery.came_at.timestamp()) for delivery, _ in uplinks])
    titles = {kid[:8] for kid in opening.keys}
    for one in opening.uplinks:
        titles.update(refused.kid[:8] for refused in one.refused if refused.kid is not None)
    concentrators = _concentrators_that_report(opening)
    by_uplink = [hop_reports.named(opened) if concentrators else {} for opened, _ in opening.uplinks]
    named = {title for by_index in by_uplink for title in by_index.values()}
    known, generation = meters.look(titles | named)
    pushes = any(key.content == PUSH.name for key in opening.keys.values())
    kept = registers.begin_batch(generation, with_profiles=pushes) if titles else NO_REGISTERS
    facts = Facts(
        meters=known,
        registers=kept.catalogue,
        readers=kept.readers,
        pending_kids=[kid for kid, key in opening.keys.items() if key.state == _PENDING],
        earliest_s=_earliest_s(uplinks[0][0].judged_at, kept.stored_from),
        clock_skew_s=settings.CLOCK_SKEW_S,
        retransmission_window=timedelta(seconds=settings.RETRANSMISSION_WINDOW_S),
        looks_everywhere=care in (Care.LOCK, Care.READ),
        concentrators=concentrators,
        without_meters=_without_meters(opening, concentrators) if concentrators else (),
        coupons=_coupons(opening, care),
        hop_keys=hop_meter_epochs.newest(named, HOP) if named else {},
        schemes_without_totals=totals.schemes_without_totals(),
    )
    batch = [
        OpenedUplink(delivery, frames, opened, refused, by_index)
        for (delivery, frames), (opened, refused), by_index in zip(uplinks, opening.uplinks, by_uplink, strict=True)
    ]
    return Gathered(batch, facts, opening, enrolling)


def _earliest_s(judged_at: datetime, stored_from: datetime | None) -> int:
    """Return the earliest second that a payload may name: nothing is stored in months that are archived."""
    first_s = int(retention_start(judged_at).timestamp()) + 1
    return first_s if stored_from is None else max(first_s, int(stored_from.timestamp()))


def look_up(examined: Examined) -> Earlier:
    """Read the results of earlier uplinks that a batch needs: usually none, and then it makes no query."""
    if not examined.asks:
        return NOTHING_EARLIER
    standing = _standing(examined)
    places = examined.sum_places()
    sums = reported_sums.standing(places) if places else {}
    received_at = _received_at({uplink_id for _, uplink_id in standing.values()} | {s.uplink_id for s in sums.values()})
    seen = examined.seen(standing)
    return Earlier(standing, received_at, record.refused_before(seen) if seen else {}, sums)


def _standing(examined: Examined) -> dict[Spot, Standing]:
    """Return the values that are stored in the places of new ones: one query for each table."""
    places = list(examined.places())
    masked = [place for place in places if place[3] == MASKED]
    if not masked:
        return reading_store.standing_values(places)
    others = [place for place in places if place[3] != MASKED]
    return reading_store.standing_values(others) | masked_store.standing_masked(masked)


def _coupons(opening: Opening, care: Care) -> Coupons | None:
    """Return the coupons that the batch names; no query if nothing is signed."""
    if not any(key.content == SIGNED.name for key in opening.keys.values()):
        return None
    frames = (frame for one in opening.uplinks for frame in one.opened if is_signed(frame))
    named = [(frame.kid, frame.plaintext) for frame in frames]
    return coupon_store.read(named, care) if named else None


def _concentrators_that_report(opening: Opening) -> dict[bytes, int]:
    """Return the ids of concentrators whose keys sealed reports, by title; no query without reports."""
    titles = {kid[:8] for kid, key in opening.keys.items() if key.content == REPORT.name}
    if not titles:
        return {}
    rows = Concentrator.objects.filter(system_title__in=titles).values_list("system_title", "pk")
    return {bytes(title or b""): pk for title, pk in rows}


def _without_meters(opening: Opening, concentrators: Mapping[bytes, int]) -> set[SumInterval]:
    """Return the intervals of sums for which their concentrators had no meters; no query without sums."""
    intervals = {
        (concentrators[kid[:8]], *interval)
        for one in opening.uplinks
        for _, kid, _, plaintext, key in one.opened
        if key.content == REPORT.name and kid[:8] in concentrators
        for interval in sum_intervals(plaintext)
    }
    return reported_sums.without_meters(intervals) if intervals else set()


def _received_at(uplink_ids: set[int]) -> dict[int, datetime]:
    if not uplink_ids:
        return {}
    rows = fetch_rows(
        "SELECT id, coalesce(corrected_at, received_at) FROM concentrators_uplink WHERE id = ANY(%s::bigint[])",
        int_array(uplink_ids),
    )
    return dict(rows)
