"""What becomes of a concentrator's frames: reports of its meters and sums, decided without a database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import cbor2
import pytest

from concentrators.failures.kinds import FailureKind
from concentrators.ingest import hop_reports
from concentrators.ingest.decide import decide
from concentrators.ingest.decisions import Decisions, Heard
from concentrators.ingest.facts import (
    NOTHING_EARLIER,
    AssignedMeter,
    Delivery,
    Earlier,
    Facts,
    OpenedUplink,
    SumSaid,
)
from concentrators.ingest.frame_checks import examine
from keyvault.ciphers import key_row
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import CountedKey
from meters.contents.table import Readers
from meters.values import Value
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE, pack
from tests.concentrators.ingest.deciding import (
    CATALOGUE,
    CONCENTRATOR_ID,
    DAY_S,
    INTERVAL,
    INTERVAL_ID,
    METER_ID,
    RECEIVED,
    SKEW_S,
    TAMPER,
    UPLINK_ID,
    WINDOW,
)

TITLE = bytes.fromhex("0024befffe00c001")
KID = make_kid(TITLE, 1)
OTHER_ID = 9
HOP_KEY_ID = 77
BASE = f"urn:dev:mac:{KNOWN_TITLE.hex()}:"
PLACE = (CONCENTRATOR_ID, INTERVAL_ID, 30, KNOWN_TIME_S)


def report(wh: int = 112, base: str = BASE, code: str = INTERVAL, unit: str = "Wh") -> bytes:
    return pack({-2: base, -1: 26, -3: KNOWN_TIME_S, 0: code, 1: unit, 2: wh})


def sums(value: int = 11_200, meters: int = 100, code: str = INTERVAL) -> bytes:
    return cbor2.dumps(["sums", [code, 30, KNOWN_TIME_S, value, meters]], canonical=True)


def meter(*assignments: tuple[int, int, int | None], in_service: bool = True) -> AssignedMeter:
    assigned = AssignedMeter(METER_ID, 30, in_service=in_service)
    for one in assignments or ((CONCENTRATOR_ID, 0, None),):
        assigned.add(*one)
    return assigned


@dataclass(frozen=True)
class Scene:
    """All that the verdict on a concentrator's frames hangs on."""

    payloads: Sequence[tuple[int, bytes]] = ((5, report()),)  # each with its counter
    meter: AssignedMeter | None = field(default_factory=meter)
    has_hop_key: bool = True
    is_concentrator: bool = True
    has_meters: bool = True
    scheme: str = "concentrator"
    state: str = "active"
    highest: int = 4
    earlier: Earlier = NOTHING_EARLIER
    received_at: datetime = RECEIVED

    def decided(self) -> tuple[Decisions, CountedKey]:
        key = CountedKey(16, key_row(1, 1, self.state, 10, self.scheme), None, self.highest, 0, "{}")
        facts = Facts(
            meters={} if self.meter is None else {KNOWN_TITLE: self.meter},
            registers=CATALOGUE,
            readers=Readers(CATALOGUE),
            pending_kids=[KID] if self.state == "pending" else [],
            earliest_s=KNOWN_TIME_S - 100 * DAY_S,
            clock_skew_s=SKEW_S,
            retransmission_window=WINDOW,
            concentrators={TITLE: CONCENTRATOR_ID} if self.is_concentrator else {},
            hop_keys={KNOWN_TITLE: HOP_KEY_ID} if self.has_hop_key else {},
            without_meters=() if self.has_meters else {(CONCENTRATOR_ID, 30, KNOWN_TIME_S)},
        )
        delivery = Delivery(UPLINK_ID, OTHER_ID, self.received_at, self.received_at)  # whoever posts it
        frames = [(n, counter.to_bytes(2, "big") + payload) for n, (counter, payload) in enumerate(self.payloads)]
        opened = [(n, KID, counter, payload, key) for n, (counter, payload) in enumerate(self.payloads)]
        uplink = OpenedUplink(delivery, frames, opened, [], hop_reports.named(opened))
        return decide(examine([uplink], facts), self.earlier), key

    def but(self, **changes: Any) -> "Scene":
        return replace(self, **changes)


def outcome(decisions: Decisions) -> dict[str, int]:
    verdicts = decisions.uplinks[0].verdicts
    counted: Mapping[str, int] = {
        "accepted": verdicts.accepted,
        "duplicate": verdicts.duplicate,
        **{kind.value: count for kind, count in verdicts.failures.items()},
    }
    return {name: count for name, count in counted.items() if count}


REPORT, SUMS = Scene(), Scene(payloads=((5, sums()),))


def test_a_report_is_the_meters_reading_and_lets_it_be_heard() -> None:
    decisions, key = REPORT.decided()
    assert outcome(decisions) == {"accepted": 1}
    assert [row[:2] for row in decisions.readings] == [(METER_ID, Value(KNOWN_TIME_S, INTERVAL_ID, 112, 30, False))]
    assert decisions.readings[0][3] == 3  # scheme hop protected it, as far as the concentrator
    assert decisions.sums == {PLACE: [112, 1]}
    assert decisions.reported == {HOP_KEY_ID: Heard(RECEIVED, OTHER_ID)}
    assert decisions.heard == {KID: Heard(RECEIVED, OTHER_ID)}
    assert key.highest == 5


def test_a_pending_key_of_a_concentrator_is_activated_and_brings_no_meters_command() -> None:
    assert REPORT.but(state="pending").decided()[0].activated == {KID: None}


EARLIER_S, NOW_S = KNOWN_TIME_S - DAY_S, int(RECEIVED.timestamp())
OTHERS = f"urn:dev:mac:{'00' * 8}:"
VERDICTS = [
    # scene, verdict, whether the counter is taken
    (REPORT.but(meter=meter((CONCENTRATOR_ID, EARLIER_S, KNOWN_TIME_S + 1))), "accepted", True),  # it was
    (REPORT.but(meter=meter((OTHER_ID, 0, NOW_S), (CONCENTRATOR_ID, NOW_S, None))), "accepted", True),  # it is
    (REPORT.but(meter=meter((CONCENTRATOR_ID, EARLIER_S, KNOWN_TIME_S))), "identity_mismatch", True),  # neither
    (REPORT.but(meter=meter((OTHER_ID, 0, None))), "identity_mismatch", True),
    (REPORT.but(has_hop_key=False), "identity_mismatch", True),
    (REPORT.but(meter=None), "identity_mismatch", True),
    (REPORT.but(payloads=((5, report(base=OTHERS)),)), "identity_mismatch", True),
    (REPORT.but(payloads=((5, report(base="")),)), "payload_invalid", True),
    (REPORT.but(payloads=((5, b"\xff"),)), "payload_invalid", True),
    (REPORT.but(payloads=((5, report(1, code=TAMPER, unit="count")),)), "algorithm_mismatch", True),
    (REPORT.but(meter=meter(in_service=False)), "device_suspended", False),
    (REPORT.but(payloads=((5, report(code="1-0:9.9.9")),)), "unknown_register", False),
    (REPORT.but(payloads=((5, report(10**6)),)), "implausible", False),
    (REPORT.but(received_at=RECEIVED - timedelta(days=1)), "clock_skew", False),
    (REPORT.but(received_at=RECEIVED, highest=4, is_concentrator=False), "unknown_device", False),
    (REPORT.but(scheme="ccm"), "unknown_device", False),
    (SUMS, "accepted", True),
    (SUMS.but(payloads=((5, sums(code="1-0:9.9.9")),)), "unknown_register", False),
    (SUMS.but(payloads=((5, sums(-1)),)), "payload_invalid", True),
    (SUMS.but(received_at=RECEIVED - timedelta(days=1)), "clock_skew", False),
    (SUMS.but(is_concentrator=False), "unknown_device", False),
    (SUMS.but(has_meters=False), "identity_mismatch", True),
    (SUMS.but(has_meters=False, received_at=RECEIVED - timedelta(days=1)), "clock_skew", False),
]


@pytest.mark.parametrize(("scene", "verdict", "takes_counter"), VERDICTS)
def test_verdicts(scene: Scene, verdict: str, takes_counter: bool) -> None:
    decisions, key = scene.decided()
    assert outcome(decisions) == {verdict: 1}
    assert key.highest == (5 if takes_counter else 4)
    is_accepted = verdict == "accepted"
    assert bool(decisions.readings or decisions.said_sums) is is_accepted
    if not is_accepted and scene.meter is not None and scene.has_hop_key and verdict == "implausible":
        assert decisions.uplinks[0].failures[0].meter_id == METER_ID


def standing(value: int = 112, age: timedelta = timedelta()) -> Earlier:
    spot = METER_ID, INTERVAL_ID, KNOWN_TIME_S, None
    return Earlier({spot: (value, 1)}, {1: RECEIVED - age})


def standing_sum(said: SumSaid, age: timedelta = timedelta()) -> Earlier:
    return Earlier(received_at={said.uplink_id: RECEIVED - age}, sums={PLACE: said})


def refused_sums() -> Earlier:
    return Earlier(refused={(KID, 5, (5).to_bytes(2, "big") + sums()): FailureKind.IDENTITY_MISMATCH})


AGAIN = [
    (REPORT.but(highest=5, earlier=standing()), "duplicate"),
    (REPORT.but(highest=5, earlier=standing(age=timedelta(days=2))), "replayed"),
    (REPORT.but(highest=5, earlier=standing(113)), "counter_reused"),
    (SUMS.but(highest=5, earlier=standing_sum(SumSaid((1, 5), 11_200, 100, 1))), "duplicate"),
    (SUMS.but(highest=9, earlier=standing_sum(SumSaid((1, 9), 11_300, 101, 1))), "duplicate"),  # another stands since
    (SUMS.but(highest=9, earlier=standing_sum(SumSaid((2, 0), 11_300, 101, 1))), "duplicate"),
    (SUMS.but(highest=5, earlier=standing_sum(SumSaid((1, 5), 11_200, 100, 1), timedelta(days=2))), "replayed"),
    (SUMS.but(highest=5, earlier=standing_sum(SumSaid((1, 5), 11_201, 100, 1))), "counter_reused"),
    (SUMS.but(highest=5, earlier=standing_sum(SumSaid((1, 5), 11_200, 101, 1))), "counter_reused"),
    (SUMS.but(highest=5, earlier=standing_sum(SumSaid((1, 4), 11_200, 100, 1))), "counter_reused"),
    (SUMS.but(highest=5), "counter_reused"),
    (SUMS.but(highest=5, has_meters=False), "counter_reused"),
    (SUMS.but(highest=5, has_meters=False, earlier=refused_sums()), "identity_mismatch"),
    (SUMS.but(highest=5, earlier=refused_sums()), "identity_mismatch"),  # it has meters since
    (SUMS.but(highest=5, has_meters=False, earlier=standing_sum(SumSaid((1, 5), 11_200, 100, 1))), "duplicate"),
]


@pytest.mark.parametrize(("scene", "verdict"), AGAIN)
def test_a_counter_that_was_seen(scene: Scene, verdict: str) -> None:
    decisions, _ = scene.decided()
    assert outcome(decisions) == {verdict: 1}
    assert not decisions.readings
    assert not decisions.said_sums
    assert not decisions.reported


def test_the_same_frames_twice_in_one_uplink() -> None:
    twice = (5, report()), (5, report()), (6, sums()), (6, sums())
    decisions, _ = Scene(payloads=twice).decided()
    assert outcome(decisions) == {"accepted": 2, "duplicate": 2}
    assert decisions.sums == {PLACE: [112, 1]}


def test_the_same_refused_sums_twice_in_one_uplink_are_refused_twice() -> None:
    decisions, _ = Scene(payloads=((5, sums()), (5, sums())), has_meters=False).decided()
    assert outcome(decisions) == {"identity_mismatch": 2}
    assert [failure.is_copy for failure in decisions.uplinks[0].failures] == [False, True]


def test_of_several_sums_that_under_the_highest_counter_stands() -> None:
    decisions, _ = Scene(payloads=((7, sums(3)), (5, sums(1)), (6, sums(2)))).decided()
    assert outcome(decisions) == {"accepted": 3}
    assert decisions.said_sums == {PLACE: SumSaid((1, 7), 3, 100, UPLINK_ID)}


def test_a_report_that_conflicts_with_what_stands_is_refused() -> None:
    scene = Scene(payloads=((5, report()), (6, report(113)), (6, report(113))))
    decisions, _ = scene.decided()
    assert outcome(decisions) == {"accepted": 1, FailureKind.READING_CONFLICT: 2}
    assert [failure.meter_id for failure in decisions.uplinks[0].failures] == [METER_ID, METER_ID]
