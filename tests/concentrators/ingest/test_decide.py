"""Every verdict, and the order of the checks, as docs/architecture.md has them; no database is asked."""

import itertools
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from concentrators.failures.kinds import WAITING, FailureKind
from concentrators.ingest.facts import Earlier
from keyvault.cose.structures import make_kid
from keyvault.coupons.verifying import Brought, Coupons, Identity
from keyvault.refusals import EnrolmentRefusal
from meters.readings.obis import COMMAND_DONE
from meters.values import Value
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE, pack
from tests.concentrators.ingest.deciding import (
    CONCENTRATOR_ID,
    DAY_S,
    DONE_ID,
    ENERGY,
    HALF_HOUR_S,
    INTERVAL,
    INTERVAL_ID,
    KID,
    METER_ID,
    RECEIVED,
    SKEW_S,
    TAMPER,
    UPLINK_ID,
    WINDOW,
    Scene,
    decided,
    examined,
    meter,
    standing,
    usual,
    verdicts,
)
from tests.keyvault.coupons.known import IDENTITY_PUBLIC, coupon_list, signed

STRANGER = Ed25519PrivateKey.generate()
OTHER_KID = make_kid(bytes(8), 1)
ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"
GOOD = Scene()
SESSION = GOOD.but(scheme="session")
CLOSED = SESSION.but(session_is_kept=False, session_floor=SESSION.context)
SEEN = GOOD.but(counter=4)  # its counter is the highest that was taken


class Case(NamedTuple):
    """A verdict, what leads to it, what becomes of the counter, and whether the frame is judged again."""

    verdict: str
    because: str
    scene: Scene
    counter: str = ""
    waits: bool = False


def reading(name: str, wh: int = 1, time_s: int = KNOWN_TIME_S, unit: str = "Wh") -> bytes:
    return pack({-1: 26, -3: time_s, 0: name, 1: unit, 2: wh})


SUSPENDED, RETIRED = meter(in_service=False), meter(in_service=False, is_retired=True)
AFTER_WINDOW = WINDOW + timedelta(seconds=1)
LONG_AGO_S = KNOWN_TIME_S - 200 * DAY_S
AHEAD_S = KNOWN_TIME_S + 3600 + SKEW_S  # as far as is allowed
ANOTHER = "urn:dev:mac:0024befffe804ff2:"  # a meter


def refused_as(kind: FailureKind, scene: Scene) -> Scene:
    """The same octets were refused as that before, and took the counter."""
    return scene.but(earlier=Earlier(refused={(KID, scene.counter, scene.octets()): kind}))


# Coupon 7 stands, or not; it signs the usual payload, or another one.
BY = Brought(UPLINK_ID, KNOWN_TIME_S)


def no_coupons() -> Coupons:
    return Coupons(identities={KNOWN_TITLE: [Identity(1, IDENTITY_PUBLIC)]})


def announced() -> Coupons:
    coupons = no_coupons()
    coupons.announce(coupons.read_list(KID, coupon_list(), BY))
    return coupons


def spent() -> Coupons:
    coupons = announced()
    coupons.open_reading(KID, signed(usual()), BY)
    return coupons


SIGNED = GOOD.but(payload=signed(usual()), coupons=announced)
FORGED = signed(usual())[:-1] + b"\x0f"

CASES = [
    Case("accepted", "it is signed under a coupon that was announced", SIGNED, "taken"),
    Case("accepted", "the same signature, sealed anew", SIGNED.but(coupons=spent, earlier=standing(100)), "taken"),
    Case("accepted", "coupons are announced", SIGNED.but(payload=coupon_list(), coupons=no_coupons), "taken"),
    Case("accepted", "coupons that stand are announced anew", SIGNED.but(payload=coupon_list()), "taken"),
    Case("duplicate", "a list again", SIGNED.but(payload=coupon_list(), counter=4)),
    Case("duplicate", "signed, and again", SIGNED.but(counter=4, coupons=spent, earlier=standing(100))),
    Case("counter_reused", "a list under a counter that was taken", SIGNED.but(payload=coupon_list(20), counter=4)),
    Case("coupon_unknown", "no list announced its coupon", SIGNED.but(coupons=no_coupons), "kept", waits=True),
    Case("coupon_unknown", "a list, and no identity", SIGNED.but(payload=coupon_list(), coupons=Coupons), "kept", True),
    Case("signature_invalid", "it does not fit", SIGNED.but(payload=FORGED), "taken"),
    Case("signature_invalid", "a list that others signed", SIGNED.but(payload=coupon_list(signer=STRANGER)), "taken"),
    Case("coupon_reused", "two things under one", SIGNED.but(payload=signed(usual(7)), coupons=spent), "taken"),
    Case("coupon_reused", "two lists for one", SIGNED.but(payload=coupon_list(7, 2)), "taken"),
    Case("identity_mismatch", "signed for another", SIGNED.but(payload=signed(usual(), kid=OTHER_KID)), "taken"),
    Case("payload_invalid", "signed octets that are none", SIGNED.but(payload=signed(usual()) + b"?"), "taken"),
    Case("payload_invalid", "a signature in a frame of ccm", GOOD.but(payload=signed(usual())), "taken"),
    Case("accepted", "all is well", GOOD, "taken"),
    Case("accepted", "what it says stands already, unchanged", GOOD.but(earlier=standing(100)), "taken"),
    Case("accepted", "it comes late, into a gap", GOOD.but(highest=9, gaps="{[5,6)}"), "taken"),
    Case("accepted", "the key is new", GOOD.but(key_state="pending"), "taken"),
    Case("accepted", "the key is on its way out", GOOD.but(key_state="retiring"), "taken"),
    Case("accepted", "as far ahead as is allowed", GOOD.but(payload=reading(ENERGY, 1, AHEAD_S)), "taken"),
    Case("duplicate", "the same again", SEEN.but(earlier=standing(100, WINDOW))),
    Case("duplicate", "the same again, by now suspended", SEEN.but(earlier=standing(100), meter=SUSPENDED)),
    Case("malformed", "an octet too many", GOOD.but(damage=b"\x00\x00")),
    Case("malformed", "too long", GOOD.but(is_too_long=True)),
    Case("unknown_device", "no key of its title", GOOD.but(key_stands=False, title_is_known=False), "kept", True),
    Case("unknown_device", "a key, but no meter", GOOD.but(meter=None), "kept", True),
    Case("unknown_epoch", "no key of that epoch", GOOD.but(key_stands=False), "kept", True),
    Case("key_retired", "the key is retired", GOOD.but(key_state="retired"), "kept"),
    Case("key_retired", "the key is compromised", GOOD.but(key_state="compromised"), "kept"),
    Case("algorithm_mismatch", "another algorithm", GOOD.but(sealing_alg=11), "kept"),
    Case("tag_invalid", "an octet changed", GOOD.but(damage=b"?"), "kept"),
    Case("parked", "the stored key does not open", GOOD.but(key_opens=False), "kept", True),
    Case("replayed", "the same again, after the window", SEEN.but(earlier=standing(100, AFTER_WINDOW))),
    Case("replayed", "before retention, its counter seen", SEEN.but(payload=usual(time_s=LONG_AGO_S))),
    Case("counter_reused", "its counter seen, another value stands", SEEN.but(earlier=standing(99))),
    Case("counter_reused", "its counter seen, nothing stands", SEEN),
    Case("counter_reused", "its counter seen, an unknown register", SEEN.but(payload=reading("1-0:9.9.9"))),
    Case("counter_too_old", "below the gaps that are kept", GOOD.but(counter=1, floor=2, highest=9)),
    Case("session_closed", "its session was given up", CLOSED),
    Case("clock_skew", "its session is to begin", SESSION.but(opened_s=AHEAD_S + 1), "kept", True),
    Case("accepted", "its session begins", SESSION.but(session_is_kept=False), "taken"),
    Case("device_suspended", "not in service", GOOD.but(meter=SUSPENDED), "kept", True),
    Case("device_suspended", "retired", GOOD.but(meter=RETIRED), "kept"),
    Case("identity_mismatch", "names another meter", GOOD.but(payload=reading(ANOTHER + ENERGY)), "taken"),
    Case("payload_invalid", "no SenML", GOOD.but(payload=b"?"), "taken"),
    Case("payload_invalid", "begins on no whole minute", GOOD.but(payload=usual(time_s=KNOWN_TIME_S + 7)), "taken"),
    Case("payload_invalid", "refused as that before", refused_as(FailureKind.PAYLOAD_INVALID, SEEN)),
    Case("too_old", "before retention", GOOD.but(payload=usual(time_s=LONG_AGO_S)), "taken"),
    Case("unknown_register", "not in the catalogue", GOOD.but(payload=reading("1-0:9.9.9")), "kept", True),
    Case("registry_mismatch", "off its grid", GOOD.but(payload=usual(time_s=KNOWN_TIME_S + 60)), "kept", True),
    Case("registry_mismatch", "another unit", GOOD.but(payload=reading(ENERGY, unit="W")), "kept", True),
    Case("implausible", "below its register's bounds", GOOD.but(payload=reading(ENERGY, -1)), "kept", True),
    Case("clock_skew", "a second too far ahead", GOOD.but(payload=reading(ENERGY, 1, AHEAD_S + 1)), "kept", True),
    Case("clock_skew", "its interval is not over", GOOD.but(payload=usual(time_s=KNOWN_TIME_S + 3600)), "kept", True),
    Case("reading_conflict", "another value stands", GOOD.but(earlier=standing(99)), "taken"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.verdict}: {case.because}" for case in CASES])
def test_the_verdict_of_a_frame_its_counter_and_whether_it_waits(case: Case) -> None:
    assert verdicts(case.scene) == {case.verdict: 1}
    decisions, key = decided(case.scene)
    before = case.scene.key()
    taken = (key.highest, key.gaps) != (before.highest, before.gaps)
    assert taken is (case.counter == "taken")
    (uplink,) = decisions.uplinks
    assert uplink.verdicts.waiting == case.waits
    assert [failure.kind for failure in uplink.failures] == list(uplink.verdicts.failures)
    accepted = case.verdict == "accepted"
    assert (set(decisions.heard) == {case.scene.kid}) is accepted
    if not accepted:
        assert not any((decisions.readings, decisions.events, decisions.sums, decisions.answers))


@pytest.mark.parametrize("scheme", ["session", "mac", "sealed"])
def test_every_scheme_has_the_same_verdicts(scheme: str) -> None:
    of_one_algorithm = {"sealed"}
    for case in CASES:
        if case.scene.earlier.refused or (scheme in of_one_algorithm and case.verdict == "algorithm_mismatch"):
            continue
        if case.scene.coupons is not None and scheme == "mac":
            continue  # no scheme signs in such frames
        scene = case.scene if case.scene.scheme == "session" else case.scene.but(scheme=scheme)
        assert verdicts(scene) == {case.verdict: 1}, case.because


@pytest.mark.parametrize("scheme", ["ccm", "session", "mac", "sealed"])
def test_another_scheme_than_the_key_is_for_is_refused_before_its_tag(scheme: str) -> None:
    key = GOOD.but(scheme=scheme)
    for other in {"ccm", "session", "mac", "sealed"} - {scheme}:
        if not {other, scheme} & {"session"}:  # a session's frames name another key
            assert verdicts(key, [GOOD.but(scheme=other).octets()]) == {"algorithm_mismatch": 1}


def documented() -> dict[str, tuple[str, str]]:
    """Counter and severity of each verdict, as the table of docs/architecture.md says."""
    section = ARCHITECTURE.read_text().split("## Verdicts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\w*) ?\| (\w*) ?\|$", section, re.MULTILINE)
    return {name: (counter, severity) for name, counter, severity in rows}


def test_the_table_names_every_verdict_and_so_does_the_document() -> None:
    every = {"accepted", "duplicate", *FailureKind}
    # Those of enrolment are in tests/keyvault/enrolment/test_certificate_checks.py, those of DLMS in ../test_dlms.py.
    assert {case.verdict for case in CASES} == every - set(EnrolmentRefusal) - {"unknown_profile"}
    assert set(documented()) == every


def test_counters_severities_and_what_waits_are_as_documented() -> None:
    table = documented()
    for case in CASES:
        assert case.counter == table[case.verdict][0] or not case.counter
    for kind in FailureKind:
        assert table[kind][1] == kind.severity.name.lower()
    assert {case.verdict for case in CASES if case.waits} == WAITING - {"unknown_profile"}


class Fault(NamedTuple):
    """What may be wrong with a frame, in the order in which it is looked for."""

    verdict: str
    changes: dict[str, Any]


# Each of these goes before all that follow it.
# It cannot be gone and kept with counters that are gone.
_GONE = {"scheme": "session", "highest": 4, "session_is_kept": False, "session_floor": CLOSED.session_floor}
ORDER = [
    Fault("malformed", {"is_too_long": True}),
    Fault("unknown_epoch", {"key_stands": False}),
    Fault("key_retired", {"key_state": "retired"}),
    Fault("algorithm_mismatch", {"sealing_alg": 11}),
    Fault("parked", {"key_opens": False}),
    Fault("tag_invalid", {"damage": b"?"}),
    Fault("unknown_device", {"meter": None}),
    Fault("counter_too_old", {"counter": 1, "floor": 2, "highest": 9}),
    Fault("session_closed", _GONE),
    Fault("device_suspended", {"meter": SUSPENDED}),
    Fault("payload_invalid", {"payload": b"?"}),
    Fault("reading_conflict", {"earlier": standing(99)}),
]


TWO_FAULTS = [two for two in itertools.combinations(ORDER, 2) if not two[0].changes.keys() & two[1].changes.keys()]


@pytest.mark.parametrize(("first", "second"), TWO_FAULTS, ids=lambda fault: fault.verdict)
def test_of_two_faults_the_one_that_is_looked_for_first_gives_the_verdict(first: Fault, second: Fault) -> None:
    assert verdicts(GOOD.but(**second.changes)) == {second.verdict: 1}
    assert verdicts(GOOD.but(**first.changes, **second.changes)) == {first.verdict: 1}


# Records of a pack, each with one fault; the pack is refused for the first of them, in whatever order they stand.
PAYLOADS = [
    ("identity_mismatch", {0: ANOTHER + ENERGY, 1: "Wh", 2: 1}),
    ("payload_invalid", {0: INTERVAL, 1: "Wh", 2: 1, 6: 7}),
    ("too_old", {0: ENERGY, 1: "Wh", 2: 1, 6: -200 * DAY_S}),
    ("unknown_register", {0: "1-0:9.9.9", 1: "Wh", 2: 1}),
    ("registry_mismatch", {0: TAMPER, 1: "Wh", 2: 1}),
    ("implausible", {0: INTERVAL, 1: "Wh", 2: -1}),
    ("clock_skew", {0: ENERGY, 1: "Wh", 2: 1, 6: 2 * DAY_S}),
]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PAYLOADS, 2)), ids=lambda fault: fault[0])
def test_of_two_faults_of_a_payload_the_first_gives_the_verdict(
    first: tuple[str, dict[int, Any]], second: tuple[str, dict[int, Any]]
) -> None:
    for records in ((first[1], second[1]), (second[1], first[1])):
        payload = pack({-1: 26, -3: KNOWN_TIME_S, **records[0]}, records[1])
        assert verdicts(GOOD.but(payload=payload)) == {first[0]: 1}


@pytest.mark.parametrize("kind", sorted(kind for kind in WAITING if kind in dict(PAYLOADS)))
def test_what_cannot_be_ours_any_more_is_compared(kind: FailureKind) -> None:
    """A counter that was seen: what is refused for bounds or time is compared; an unknown register cannot be."""
    payload = pack({-1: 26, -3: KNOWN_TIME_S, **dict(PAYLOADS)[kind]})
    scene = SEEN.but(payload=payload)
    assert verdicts(scene) == {"counter_reused": 1}
    assert verdicts(refused_as(FailureKind.READING_CONFLICT, scene)) == {"reading_conflict": 1}


class TestInOneUplink:
    """Frames are decided in their order: what one lets stand, the next one meets."""

    def frames(self, *scenes: Scene) -> list[bytes]:
        return [scene.octets() for scene in scenes]

    def test_the_same_frame_twice(self) -> None:
        assert verdicts(GOOD, self.frames(GOOD, GOOD)) == {"accepted": 1, "duplicate": 1}

    def test_another_content_under_the_same_counter(self) -> None:
        assert verdicts(GOOD, self.frames(GOOD, GOOD.but(payload=usual(7)))) == {"accepted": 1, "counter_reused": 1}

    def test_another_value_under_another_counter(self) -> None:
        frames = self.frames(GOOD, GOOD.but(counter=6, payload=usual(7)))
        assert verdicts(GOOD, frames) == {"accepted": 1, "reading_conflict": 1}

    def test_a_refused_frame_again_is_a_copy(self) -> None:
        bad = GOOD.but(payload=b"?")
        decisions, _ = decided(GOOD, self.frames(bad, bad))
        assert [(one.kind, one.is_copy) for one in decisions.uplinks[0].failures] == [("payload_invalid", False)] * 2
        late = pack({-1: 26, -3: LONG_AGO_S, 0: ENERGY, 1: "Wh", 2: 1})
        old = GOOD.but(payload=late)
        decisions, _ = decided(GOOD, self.frames(old, old))
        assert [(one.kind, one.is_copy) for one in decisions.uplinks[0].failures] == [
            ("too_old", False),
            ("too_old", True),
        ]

    def test_what_a_conflict_would_have_stored_does_not_stand(self) -> None:
        both = pack(
            {-1: 26, -3: KNOWN_TIME_S - HALF_HOUR_S, 0: INTERVAL, 1: "Wh", 2: 1},
            {0: INTERVAL, 1: "Wh", 2: 5, 6: HALF_HOUR_S},
        )
        frames = self.frames(GOOD.but(payload=both), GOOD.but(counter=6, payload=usual(2, KNOWN_TIME_S - HALF_HOUR_S)))
        assert verdicts(GOOD.but(earlier=standing(100)), frames) == {"reading_conflict": 1, "accepted": 1}


class TestWhatIsLookedUp:
    """Nothing, where every counter is new; otherwise the places and frames that the decision hangs on."""

    def test_nothing_where_every_counter_is_new(self) -> None:
        seen, _ = examined(GOOD.but(locks=False))
        assert not seen.asks

    def test_every_place_under_locks(self) -> None:
        seen, _ = examined(GOOD)
        assert list(seen.places()) == [(METER_ID, INTERVAL_ID, KNOWN_TIME_S, None)]
        assert seen.seen({}) == set()

    def test_where_a_counter_was_seen(self) -> None:
        scene = SEEN.but(locks=False)
        seen, _ = examined(scene)
        assert seen.asks
        assert list(seen.places()) == [(METER_ID, INTERVAL_ID, KNOWN_TIME_S, None)]
        assert seen.seen({}) == {(KID, 4, scene.octets())}
        assert seen.seen(standing(100).standing) == set()  # all stands: no refusal to ask for

    def test_of_the_new_ones_beside_it_nothing(self) -> None:
        scene = SEEN.but(locks=False)
        seen, _ = examined(scene, [scene.octets(), GOOD.but(payload=usual(1, KNOWN_TIME_S - HALF_HOUR_S)).octets()])
        assert len(list(seen.places())) == 1

    def test_whether_a_frame_was_refused_whose_payload_cannot_be_compared(self) -> None:
        scene = SEEN.but(locks=False, payload=reading("1-0:9.9.9"))
        seen, _ = examined(scene)
        assert (seen.asks, list(seen.places())) == (True, [])
        assert seen.seen({}) == {(KID, 4, scene.octets())}


class TestWhatIsStored:
    """Beside the verdicts: readings, events, sums, when devices were heard, answers, and epochs that begin."""

    def test_a_reading_and_its_sum(self) -> None:
        decisions, _ = decided(GOOD)
        value = Value(KNOWN_TIME_S, INTERVAL_ID, 100, 30, False)
        assert decisions.readings == [(METER_ID, value, UPLINK_ID, None)]
        assert decisions.sums == {(CONCENTRATOR_ID, INTERVAL_ID, 30, KNOWN_TIME_S): [100, 1]}
        assert decisions.heard == {KID: (RECEIVED, CONCENTRATOR_ID)}
        assert decisions.activated == {}

    def test_what_stands_is_not_stored_twice(self) -> None:
        decisions, _ = decided(GOOD.but(earlier=standing(100)))
        assert (decisions.readings, decisions.sums) == ([], {})
        assert KID in decisions.heard

    def test_an_answer_to_a_command(self) -> None:
        decisions, _ = decided(GOOD.but(payload=reading(COMMAND_DONE, 4711, unit="count")))
        assert decisions.answers == [(METER_ID, 4711, COMMAND_DONE)]
        assert decisions.events == [(METER_ID, Value(KNOWN_TIME_S, DONE_ID, 4711, 0, True), UPLINK_ID, None)]

    def test_another_event_answers_nothing(self) -> None:
        decisions, _ = decided(GOOD.but(payload=reading(TAMPER, 1, unit="count")))
        assert decisions.answers == []
        assert len(decisions.events) == 1

    @pytest.mark.parametrize("locks", [False, True])
    def test_an_epoch_begins_with_the_first_accepted_frame(self, locks: bool) -> None:
        decisions, _ = decided(GOOD.but(key_state="pending", locks=locks))
        assert decisions.activated == {KID: METER_ID}

    @pytest.mark.parametrize("payload", [b"?", reading("1-0:9.9.9")], ids=["refused", "waiting"])
    def test_an_epoch_does_not_begin_with_a_refused_frame(self, payload: bytes) -> None:
        decisions, _ = decided(GOOD.but(key_state="pending", payload=payload))
        assert decisions.activated == {}
