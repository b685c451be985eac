"""First step of deciding: checks meter, state, payload and counter of the frames that opened, in their order. Pure.

A frame that fails a check gets its verdict here. Counters are taken in the keys that came with the frames.
"""

from collections.abc import Iterator, Mapping

from concentrators.failures.kinds import WAITING, FailureKind
from concentrators.ingest import hop_reports, signed_readings
from concentrators.ingest.decisions import Failure, Verdicts
from concentrators.ingest.facts import (
    AssignedMeter,
    Batch,
    Facts,
    OpenedFrame,
    OpenedUplink,
    SeenFrame,
    SumPlace,
)
from concentrators.ingest.hop_reports import SumsFrame
from concentrators.ingest.signed_readings import ListFrame
from keyvault.cose.forms import KID_OCTETS
from keyvault.coupons.forms import is_list
from keyvault.coupons.verifying import CouponError, Coupons
from keyvault.replay_window import Take
from keyvault.schemes.table import UNAUTHENTICATED
from meters.contents.report import REPORT, is_sums
from meters.values import (
    LAST_S,
    NewSignature,
    PayloadError,
    PayloadRefusal,
    PayloadTimes,
    Spot,
    Standing,
    Value,
    iso,
    spot,
)

_TRANSFER_EPOCH = bytes(2)  # no uplink is under it, so nothing could open such frames later

# An authentic frame with an acceptable payload, and whether its counter was new.
# A plain tuple: there is one for every frame.
Candidate = tuple[OpenedFrame, AssignedMeter, list[Value], bool]


class ExaminedUplink:
    """One uplink of a batch: its frames so far, and its verdicts."""

    def __init__(self, uplink: OpenedUplink, facts: Facts) -> None:
        self.delivery = uplink.delivery
        self.came_s = int(uplink.delivery.came_at.timestamp())
        self.named = uplink.named
        self.verdicts = Verdicts()
        self.failures: list[Failure] = []
        self.candidates: list[Candidate] = []
        self.unread: list[OpenedFrame] = []  # their counters were seen, and their content cannot be compared
        self.past: list[OpenedFrame] = []  # their counters were seen, and their content is no longer stored
        self.sums: list[SumsFrame] = []
        self.lists: list[ListFrame] = []
        self.signatures: list[NewSignature] = []  # those that spent a coupon
        # The meters that reports are about, by the frame's index: of those that the concentrator may speak for. What it
        # says of others counts for itself.
        self.about: dict[int, bytes] = {}
        self._octets = dict(uplink.frames)
        self._meters = facts.meters
        for index, reason, detail, kid, counter in uplink.refused:
            self._fail(index, FailureKind(reason), detail, kid, counter)

    def name(self, frame: OpenedFrame) -> SeenFrame:
        return frame[1], frame[2], self._octets[frame[0]]

    def refuse(
        self, frame: OpenedFrame, kind: FailureKind, detail: str, *, waits: bool = True, is_copy: bool = False
    ) -> None:
        self._fail(frame[0], kind, detail, frame[1], frame[2], waits=waits, is_copy=is_copy)

    def _fail(
        self,
        index: int,
        kind: FailureKind,
        detail: str,
        kid: bytes | None,
        counter: int | None,
        *,
        waits: bool = True,
        is_copy: bool = False,
    ) -> None:
        self.verdicts.failures[kind] += 1
        if waits and kind in WAITING and kid is not None and kid[8:10] != _TRANSFER_EPOCH:
            self.verdicts.waiting_frames.setdefault(kind, []).append(index)
            if self.delivery.waited.get(index) == kind:
                return
        title = self.about.get(index, b"" if kid is None else kid[:8])
        meter = self._meters.get(title)
        meter_id = None if meter is None else meter.id
        self.failures.append(Failure(index, self._octets[index], kind, detail, kid, counter, meter_id, is_copy))


class Examined:
    """A batch after the first step: the frames for ``decide``, and what must be looked up before."""

    def __init__(self, uplinks: list[ExaminedUplink], facts: Facts) -> None:
        self.uplinks = uplinks
        self.facts = facts
        # Whether anything is to be looked up. Where every counter is new, nothing is: the primary keys of readings
        # and events tell.
        self.asks = facts.looks_everywhere or any(
            uplink.unread
            or uplink.past
            or not all(candidate[3] for candidate in uplink.candidates)
            or not all(one.is_new for one in uplink.sums)
            or not all(one.is_new for one in uplink.lists)
            for uplink in uplinks
        )

    def places(self) -> Iterator[Spot]:
        """Return where values may be stored already: under locks everywhere, otherwise where counters were seen."""
        everywhere = self.facts.looks_everywhere
        for uplink in self.uplinks:
            for _, meter, values, is_new in uplink.candidates:
                if everywhere or not is_new:
                    for value in values:
                        yield spot(meter.id, value)

    def sum_places(self) -> set[SumPlace]:
        """Return where sums may be stored already: those of counters seen before."""
        return {
            place
            for uplink in self.uplinks
            for one in uplink.sums
            if not one.is_new
            for place in one.said(uplink.delivery.uplink_id)
        }

    def seen(self, standing: Mapping[Spot, Standing]) -> set[SeenFrame]:
        """Return frames with counters seen before, and values not all stored: they may have been rejected."""
        frames = set()
        for uplink in self.uplinks:
            for frame, meter, values, is_new in uplink.candidates:
                if not is_new and not all_stand(values, meter.id, standing):
                    frames.add(uplink.name(frame))
            frames.update(map(uplink.name, uplink.unread))
            frames.update(map(uplink.name, uplink.past))
            frames.update(uplink.name(one.frame) for one in uplink.sums if not one.is_new)
        return frames


def examine(batch: Batch, facts: Facts) -> Examined:
    """First step: take the counters and read the payloads; a frame that fails gets its verdict."""
    uplinks = []
    for opened in batch:
        uplink = ExaminedUplink(opened, facts)
        latest_s = uplink.came_s + facts.clock_skew_s
        _examine(uplink, opened, facts, PayloadTimes(facts.earliest_s, latest_s))
        uplinks.append(uplink)
    return Examined(uplinks, facts)


def _examine(uplink: ExaminedUplink, opened: OpenedUplink, facts: Facts, period: PayloadTimes) -> None:
    meters, readers = facts.meters, facts.readers
    candidates = uplink.candidates
    for frame in opened.opened:
        _, kid, counter, plaintext, key = frame
        title = kid[:8]
        meter = meters.get(title)
        if meter is None:
            if title in facts.concentrators and key.content == REPORT.name:
                _examine_report(uplink, frame, facts, period)
            else:
                detail = f"a key, but no meter with system title {title.hex()}"
                uplink.refuse(frame, FailureKind.UNKNOWN_DEVICE, detail)
            continue
        if len(kid) > KID_OCTETS and key.opened_s > period.latest_s:
            uplink.refuse(frame, FailureKind.CLOCK_SKEW, f"its session began at {iso(key.opened_s)}, which is to come")
            continue
        if not meter.in_service and key.look(counter) is Take.TAKEN:
            _refuse_suspended(uplink, frame, meter)
            continue
        coupons = facts.coupons
        try:
            if coupons is None or not signed_readings.is_signed(frame):
                reader = readers[key.content]
                minutes, lengths = meter.interval_minutes, meter.lengths
                values = reader.read(plaintext, title, minutes, period, lengths, meter.serial_number)
            elif is_list(plaintext):
                _examine_list(uplink, frame, coupons)
                continue
            else:
                values = signed_readings.read(frame, meter, facts, coupons, period, uplink.delivery, uplink.signatures)
        except (PayloadError, CouponError) as error:
            _refuse_payload(uplink, frame, meter, error)
            continue
        take = key.take(counter)
        if take is Take.TOO_OLD or take is Take.CLOSED:
            _refuse_gone(uplink, frame, take)
        else:
            candidates.append((frame, meter, values, take is Take.TAKEN))


def _examine_list(uplink: ExaminedUplink, frame: OpenedFrame, coupons: Coupons) -> None:
    """A coupon list: it stands from now on where its counter is new; CouponError where it is refused."""
    _, _, counter, _, key = frame
    listed = signed_readings.read_list(frame, coupons, uplink.delivery)
    take = key.take(counter)
    if take is Take.TOO_OLD or take is Take.CLOSED:
        _refuse_gone(uplink, frame, take)
        return
    standing = signed_readings.announced(frame, listed, coupons, is_new=take is Take.TAKEN)
    if standing is None:
        uplink.unread.append(frame)
    else:
        uplink.lists.append(standing)


def _examine_report(uplink: ExaminedUplink, frame: OpenedFrame, facts: Facts, period: PayloadTimes) -> None:
    """Check a frame of a concentrator: a report about one meter, treated like a frame of that meter; or sums."""
    index, kid, counter, plaintext, key = frame
    meter, values, sums = None, [], []
    concentrator_id = facts.concentrators[kid[:8]]
    title = uplink.named.get(index)
    try:
        if title is not None:
            meter = hop_reports.meter_of(title, facts)
            is_its_own = meter.is_assigned(concentrator_id, uplink.came_s)
            if is_its_own:
                uplink.about[index] = title
            if not meter.in_service and key.look(counter) is Take.TAKEN:
                _refuse_suspended(uplink, frame, meter)
                return
            values = hop_reports.read(frame, title, meter, facts, period, is_its_own=is_its_own)
            uplink.about[index] = title
        elif is_sums(plaintext):
            # A frame that was seen before is compared, whatever our clock and the assignments say now.
            is_new = key.look(counter) is Take.TAKEN
            times = period if is_new else PayloadTimes(period.earliest_s, LAST_S)
            sums = hop_reports.sums_of(frame, facts, times)
            if is_new:
                hop_reports.check_has_meters(sums, concentrator_id, facts)
        else:
            raise PayloadError(PayloadRefusal.PAYLOAD_INVALID, "the base name names no meter")
    except PayloadError as error:
        _refuse_payload(uplink, frame, meter, error)
        return
    take = key.take(counter)
    if take is Take.TOO_OLD:
        _refuse_gone(uplink, frame, take)
    elif meter is not None:
        uplink.candidates.append((frame, meter, values, take is Take.TAKEN))
    else:
        uplink.sums.append(SumsFrame(frame, concentrator_id, sums, take is Take.TAKEN))


def _refuse_suspended(uplink: ExaminedUplink, frame: OpenedFrame, meter: AssignedMeter) -> None:
    detail = "the meter is not in service"
    uplink.refuse(frame, FailureKind.DEVICE_SUSPENDED, detail, waits=not meter.is_retired)


def _refuse_payload(
    uplink: ExaminedUplink, frame: OpenedFrame, meter: AssignedMeter | None, error: PayloadError | CouponError
) -> None:
    """Refuse a payload: for good, with its counter; or, if the reason may be a fault of ours, until that has passed.

    If the counter was taken already, the values of the payload are compared with stored ones, as far as they can be
    read and are within retention. A frame of a scheme without authentication takes no counter here.
    """
    kind = FailureKind(error.reason)
    _, _, counter, _, key = frame
    keeps_counter = kind in WAITING or key.scheme in UNAUTHENTICATED
    take = key.look(counter) if keeps_counter else key.take(counter)
    if take is Take.TOO_OLD or take is Take.CLOSED:
        _refuse_gone(uplink, frame, take)
    elif take is Take.TAKEN:
        uplink.refuse(frame, kind, str(error))
    elif error.values is not None and meter is not None:
        uplink.candidates.append((frame, meter, error.values, False))
    elif kind in WAITING:
        uplink.unread.append(frame)
    elif error.reason is PayloadRefusal.TOO_OLD:
        uplink.past.append(frame)
    else:
        uplink.refuse(frame, kind, str(error))


def _refuse_gone(uplink: ExaminedUplink, frame: OpenedFrame, take: Take) -> None:
    """Refuse a frame of which it is no longer known whether its counter was taken."""
    if take is Take.CLOSED:
        detail = "its session is kept no longer: the meter began others since"
        uplink.refuse(frame, FailureKind.SESSION_CLOSED, detail)
    else:
        uplink.refuse(frame, FailureKind.COUNTER_TOO_OLD, "the counter is older than the gaps that are kept")


def all_stand(values: list[Value], meter_id: int, standing: Mapping[Spot, Standing]) -> bool:
    for value in values:
        there = standing.get(spot(meter_id, value))
        if there is None or there[0] != value.value:
            return False
    return True
