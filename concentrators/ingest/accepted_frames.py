"""What is to be stored for the frames that are accepted: readings, events, totals, answers, sums. Pure."""

from concentrators.ingest import hop_reports
from concentrators.ingest.decisions import DecidedUplink, Decisions, Heard, MeterAnswer
from concentrators.ingest.facts import (
    AssignedMeter,
    Facts,
    SumPlace,
    SumSaid,
)
from concentrators.ingest.frame_checks import Candidate, ExaminedUplink
from concentrators.ingest.hop_reports import SumsFrame
from concentrators.ingest.signed_readings import ListFrame
from keyvault.schemes.table import UNAUTHENTICATED
from meters.contents.events import EVENTS
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED
from meters.values import NewValue, Value

_ANSWERS = (COMMAND_DONE, COMMAND_REFUSED, COMMAND_LATE)


class Accepted:
    """What is to be stored for accepted frames."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._readings: list[NewValue] = []
        self._events: list[NewValue] = []
        self._masked: list[NewValue] = []
        self._arrived: dict[tuple[int, int, int, int], int] = {}
        self._sums: dict[tuple[int, int, int, int], list[int]] = {}
        self._heard: list[tuple[ExaminedUplink, list[bytes]]] = []
        self._said_sums: dict[SumPlace, SumSaid] = {}
        self._reported: dict[int, Heard] = {}

    def accept(self, uplink: ExaminedUplink, candidates: list[Candidate]) -> None:
        """Accept frames of an uplink, with those of their values that are not stored yet."""
        readings, events, sums = self._readings, self._events, self._sums
        uplink_id = uplink.delivery.uplink_id
        uplink.verdicts.accepted += len(candidates)
        self._heard.append((uplink, [candidate[0][1] for candidate in candidates]))
        without_totals = self._facts.schemes_without_totals
        for frame, meter, values, _ in candidates:
            meter_id, scheme = meter.id, frame[4].scheme
            for value in values:
                captured_s, register_id, steps, minutes, is_event, is_masked = value
                if is_masked:
                    self._accept_masked(meter, (meter_id, value, uplink_id, scheme))
                    continue
                if is_event:  # those of meters whose readings come otherwise are in ccm frames
                    of = None if frame[4].content == EVENTS.name else scheme
                    events.append((meter_id, value, uplink_id, of))
                    continue
                readings.append((meter_id, value, uplink_id, scheme))
                if minutes and scheme in without_totals:
                    self._arrive(meter, value)
                elif minutes:
                    concentrator_id = meter.concentrator_of(captured_s, minutes)
                    if concentrator_id is not None:
                        place = (concentrator_id, register_id, minutes, captured_s)
                        if place in sums:
                            total = sums[place]
                            total[0] += steps
                            total[1] += 1
                        else:
                            sums[place] = [steps, 1]

        if uplink.about:
            self._note_reported(uplink, candidates)

    def _accept_masked(self, meter: AssignedMeter, row: NewValue) -> None:
        """Accept a masked value: it adds nothing to a total, which counts only that it arrived."""
        self._masked.append(row)
        self._arrive(meter, row[1])

    def _arrive(self, meter: AssignedMeter, value: Value) -> None:
        """Count a value that is in no sum as one that arrived."""
        concentrator_id = meter.concentrator_of(value.captured_s, value.interval_minutes)
        if concentrator_id is not None:
            place = (concentrator_id, value.register_id, value.interval_minutes, value.captured_s)
            self._arrived[place] = self._arrived.get(place, 0) + 1

    def _note_reported(self, uplink: ExaminedUplink, candidates: list[Candidate]) -> None:
        """Note when the meters that a concentrator reports for were heard; the latest time counts."""
        heard = Heard(uplink.delivery.came_at, uplink.delivery.concentrator_id)
        about, keys, reported = uplink.about, self._facts.hop_keys, self._reported
        for frame, _, _, _ in candidates:
            title = about.get(frame[0])
            if title is not None:
                key_id = keys[title]
                before = reported.get(key_id)
                if before is None or before < heard:
                    reported[key_id] = heard

    def accept_sums(self, uplink: ExaminedUplink, frames: list[SumsFrame]) -> None:
        """Accept frames of sums; of several sums for one interval, the one under the highest counter counts."""
        uplink.verdicts.accepted += len(frames)
        self._heard.append((uplink, [one.frame[1] for one in frames]))
        for one in frames:
            hop_reports.take_over(one.said(uplink.delivery.uplink_id), self._said_sums)

    def accept_lists(self, uplink: ExaminedUplink, frames: list[ListFrame]) -> None:
        """Accept frames of coupon lists, which are among the coupons of the facts already."""
        uplink.verdicts.accepted += len(frames)
        self._heard.append((uplink, [one.frame[1] for one in frames]))

    def decisions(self, uplinks: list[ExaminedUplink]) -> Decisions:
        heard = self._heard_at()
        meters = self._facts.meters
        return Decisions(
            [DecidedUplink(one.delivery, one.verdicts, one.failures) for one in uplinks],
            heard,
            self._readings,
            self._events,
            self._sums,
            self._answers(),
            {
                kid: meters[kid[:8]].id if kid[:8] in meters else None
                for kid in self._facts.pending_kids
                if kid in heard
            },
            self._reported,
            self._said_sums,
            self._masked,
            self._arrived,
            [signature for one in uplinks for signature in one.signatures],
            self._facts.coupons,
        )

    def _heard_at(self) -> dict[bytes, Heard]:
        """Return when each device was last heard; of two uplinks with the same time, the first counts."""
        heard: dict[bytes, Heard] = {}
        in_order = self._heard[::-1]
        in_order.sort(key=lambda one: one[0].delivery.came_at)
        for uplink, kids in in_order:
            heard.update(dict.fromkeys(kids, Heard(uplink.delivery.came_at, uplink.delivery.concentrator_id)))
        return heard

    def _answers(self) -> list[MeterAnswer]:
        if not self._events:
            return []
        codes = {self._facts.registers.id_of(code): code for code in _ANSWERS}
        return [
            MeterAnswer(meter_id, event.value, codes[event.register_id])
            for meter_id, event, _, scheme in self._events
            if event.register_id in codes and scheme not in UNAUTHENTICATED
        ]
