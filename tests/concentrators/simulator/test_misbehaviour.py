"""Wrong frames are wrong in the way that their expected verdict says; genuine ones are all posted."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.failures.kinds import WAITING, FailureKind
from concentrators.simulator.factory import Factory
from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.misbehaviour_kinds import Misbehaviour, RatesError, parse_rates
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.spool import Spool
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MalformedError, split_sequence
from keyvault.replay_window import CounterSet, Take
from keyvault.schemes.lines import OpenedKey
from keyvault.schemes.table import ENVELOPES, SCHEMES, parse_frame
from meters.readings.push.profiles import ContentError, OtherMeterError
from meters.readings.senml import SenMLError, SenmlRecord, parse_pack
from tests.concentrators.simulator.pushed import open_pushed, read_pushed

START_S = 1_767_225_600
SECRET = bytes(32)
GAP_RUNS = 40
PRIVATE = X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
HEAD_END = PRIVATE.public_key().public_bytes_raw()
PUSHING = ["dlms", "dlms in clear", "dlms without tag"]
FOR_HEAD_END = ["ccm", "session", "mac", "sealed", *PUSHING]  # schemes whose frames no concentrator opens


def make_plan(rates: str, meters: int = 20, days: int = 3, schemes: Sequence[str] = FOR_HEAD_END) -> Plan:
    return Plan(
        run="0a0b0c0d",
        seed=5,
        meters=[str(number) for number in range(meters)],
        concentrators=3,
        interval_minutes=[30],
        start_s=START_S,
        end_s=START_S + days * 86_400,
        rates=parse_rates(rates),
        gap_runs=GAP_RUNS,
        derived_every=4,
        schemes=list(schemes),
        agreed_every=5,
    )


def frames_of(plan: Plan, folder: Path) -> list[tuple[str, bytes]]:
    """All frames of a run in the order that they are posted, each with its expected verdict."""
    spool = Spool(folder)
    spool.set_facts(late_profile=1)  # registered from the start: wrong frames stand beside all others
    production = Production(plan, HouseholdLoad(plan.seed, plan.start_s), spool, Factory(plan, SECRET, HEAD_END))
    while production.tick < (plan.ticks or 0):
        production.advance(12)
    production.finish()
    octets: list[bytes] = []
    while not all(spool.is_drained(number) for number in range(plan.concentrators)):
        for number in range(plan.concentrators):
            while (batch := spool.next_batch(number, 1, partial=True)) is not None:
                octets += split_sequence(batch.body)
                spool.keep_receipt(batch, len(octets))
                spool.mark_verified(len(octets))
            spool.release_behind(number)
    verdicts = [next(iter(counts)) for _, _, counts in spool.posted()]
    return list(zip(verdicts, octets, strict=True))


def opened(plan: Plan, octets: bytes) -> tuple[bytes, int, bytes]:
    """(kid, counter, payload); raises as the head-end would refuse."""
    frame = parse_frame(octets)
    number = int.from_bytes(frame.kid[5:8], "big")
    if plan.scheme_of(number) in PUSHING:
        return open_pushed(plan, Factory(plan, SECRET, HEAD_END), octets)
    octets_of_key = Factory(plan, SECRET, HEAD_END).device_key(number)
    key = OpenedKey(octets_of_key, plan.system_title(number), 1, plan.algorithm_of(number), PRIVATE)
    key.kid_context = frame.kid[10:]
    return frame.kid, frame.counter, ENVELOPES[SCHEMES[plan.scheme_of(number)].envelope].cipher(key).open_(frame)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("all=0.02")


@pytest.fixture(scope="module")
def posted(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    return frames_of(plan, tmp_path_factory.mktemp("spool"))


@pytest.fixture(scope="module")
def by_verdict(posted: list[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    sorted_: dict[str, list[bytes]] = defaultdict(list)
    for verdict, octets in posted:
        sorted_[verdict].append(octets)
    return sorted_


def test_every_verdict_that_can_be_provoked_is(by_verdict: dict[str, list[bytes]]) -> None:
    of_enrolments = {"certificate_invalid", "certificate_expired", "certificate_revoked", "already_enrolled"}
    of_signed = {"coupon_unknown", "signature_invalid", "coupon_reused"}  # test_signing.py
    provoked = {kind.value for kind in FailureKind} - of_enrolments - of_signed - {"parked"}  # which is ours
    assert set(by_verdict) == provoked | {"accepted", "duplicate"}


def test_refused_before_they_are_opened(plan: Plan, by_verdict: dict[str, list[bytes]]) -> None:
    known = {plan.system_title(number) for number in plan.numbers}
    for octets in by_verdict["malformed"]:
        with pytest.raises(MalformedError):
            parse_frame(octets)
    assert not {parse_frame(octets).kid[:8] for octets in by_verdict["unknown_device"]} & known
    kids = [parse_frame(octets).kid for octets in by_verdict["unknown_epoch"]]
    assert {kid[:8] for kid in kids} <= known
    assert b"\x00\x01" not in {kid[8:10] for kid in kids}
    for octets in by_verdict["algorithm_mismatch"]:
        number = int.from_bytes(parse_frame(octets).kid[5:8], "big")
        shown = ENVELOPES.of(octets).name, parse_frame(octets).alg
        assert shown != (plan.scheme_of(number), plan.algorithm_of(number))
    for octets in by_verdict["tag_invalid"]:
        assert parse_frame(octets).kid[:8] in known
        with pytest.raises(TagInvalidError):
            opened(plan, octets)


def test_counters_give_their_verdicts_in_the_order_of_posting(plan: Plan, posted: list[tuple[str, bytes]]) -> None:
    """Counters are taken by all frames that open; a genuine frame and its copies take one together."""
    taken: dict[bytes, CounterSet] = defaultdict(partial(CounterSet, GAP_RUNS))
    contents: dict[tuple[bytes, int], bytes] = {}
    unopened = {"malformed", "unknown_device", "unknown_epoch", "algorithm_mismatch", "tag_invalid"}
    seen: Counter[str] = Counter()
    for verdict, octets in posted:
        if verdict in unopened | {"key_retired"} | {kind.value for kind in WAITING}:
            continue  # no counter is taken
        kid, counter, payload = opened(plan, octets)
        take = taken[kid].take(counter)
        if verdict == "counter_too_old":
            assert take is Take.TOO_OLD
        elif verdict == "counter_reused":
            assert take is Take.SEEN
            assert contents[kid, counter] != payload
        elif verdict == "replayed":
            assert take is Take.SEEN
        elif verdict in ("accepted", "duplicate"):
            seen["accepted" if take is Take.TAKEN else "duplicate"] += 1
            assert contents.setdefault((kid, counter), payload) == payload
        else:
            assert take is Take.TAKEN, verdict
    expected = Counter(verdict for verdict, _ in posted)
    assert seen == {verdict: expected[verdict] for verdict in ("accepted", "duplicate")}


def test_payloads_are_wrong_as_their_verdict_says(plan: Plan, by_verdict: dict[str, list[bytes]]) -> None:
    standing = {
        (parse_frame(octets).kid, record.name, record.time_s): record.value
        for octets in by_verdict["accepted"] + by_verdict["duplicate"]
        for record in records(plan, octets)
    }
    for octets in by_verdict["reading_conflict"]:
        for record in records(plan, octets):
            assert standing[parse_frame(octets).kid, record.name, record.time_s] != record.value
    for octets in by_verdict["clock_skew"]:
        begun = parse_frame(octets).kid[10:14] if len(parse_frame(octets).kid) > 10 else b""
        times = [record.time_s for record in records(plan, octets)]
        assert max(int.from_bytes(begun, "big"), *times) > plan.start_s + 700 * 86_400
    assert {r.time_s < plan.start_s - 1096 * 86_400 for o in by_verdict["too_old"] for r in records(plan, o)} == {True}
    for octets in by_verdict["identity_mismatch"]:
        kid = parse_frame(octets).kid
        if len(kid) == 8:
            with pytest.raises(OtherMeterError):
                records(plan, octets)
            continue
        assert all(r.name.startswith("urn:dev:mac:") and kid[:8].hex() not in r.name for r in records(plan, octets))
    for octets in by_verdict["payload_invalid"]:
        try:
            bad = records(plan, octets)
        except (SenMLError, ContentError):
            continue
        assert [r for r in bad if (r.name == "1-0:1.29.0" and r.time_s % 60) or r.unit != "Wh"]
    for octets in by_verdict["registry_mismatch"]:
        assert [r for r in records(plan, octets) if type(r.value) is not int or r.unit != "Wh"]
    assert {r.name for o in by_verdict["unknown_register"] for r in records(plan, o)} == {"1-0:255.255.255"}
    assert all(r.value not in range(10**12) for o in by_verdict["implausible"] for r in records(plan, o))


def test_forms_without_a_profile_are_those_that_moved(plan: Plan, by_verdict: dict[str, list[bytes]]) -> None:
    for octets in by_verdict["unknown_profile"]:
        with pytest.raises(LookupError):
            records(plan, octets)


def records(plan: Plan, octets: bytes) -> list[SenmlRecord]:
    payload = opened(plan, octets)[2]
    title = parse_frame(octets).kid
    return parse_pack(payload) if len(title) > 8 else read_pushed(plan, title, payload)


def test_every_genuine_reading_is_posted_once(plan: Plan, by_verdict: dict[str, list[bytes]]) -> None:
    load = HouseholdLoad(plan.seed, plan.start_s)
    truth = Counter(
        (plan.system_title(number), one.start_s, one.energy_wh, one.register_wh)
        for number in range(len(plan.meters))
        for one in plan.intervals(load, number, plan.ticks or 0)
    )
    genuine = {octets for verdict in ("accepted", "duplicate") for octets in by_verdict[verdict]}
    sent: Counter[tuple[bytes, int, int, int]] = Counter()
    for octets in genuine:
        values = {record.name: record for record in records(plan, octets)}
        if "1-0:1.29.0" in values:
            interval, register = values["1-0:1.29.0"], values["1-0:1.8.0"]
            sent[parse_frame(octets).kid[:8], interval.time_s, int(interval.value), int(register.value)] += 1
    assert sent == truth


def test_the_same_seed_gives_the_same_frames(tmp_path: Path) -> None:
    plan = make_plan("bit_flip=0.1,late=0.1,conflict=0.1", meters=3, days=1, schemes=["ccm", "mac"])
    assert frames_of(plan, tmp_path / "1") == frames_of(plan, tmp_path / "2")


def test_meters_seal_by_their_schemes(plan: Plan, by_verdict: dict[str, list[bytes]]) -> None:
    shown = {ENVELOPES.of(octets).name for octets in by_verdict["accepted"]}
    assert shown == {SCHEMES[name].envelope for name in FOR_HEAD_END}
    assert {plan.source_of(number) for number in plan.numbers} == {"stored", "derived", "agreed"}


def test_without_misbehaviour_all_is_accepted(tmp_path: Path) -> None:
    assert {verdict for verdict, _ in frames_of(make_plan("", meters=3, days=1), tmp_path)} == {"accepted"}


def test_rates() -> None:
    assert parse_rates("") == {}
    assert parse_rates("replay=0.1,bit_flip") == {"replay": 0.1, "bit_flip": 0.002}
    assert parse_rates("all=0.01,garbage=0") == {kind.value: 0.01 for kind in Misbehaviour if kind != "garbage"}
    assert set(parse_rates("all")) == {kind.value for kind in Misbehaviour}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("everything", "no misbehaviour is called 'everything'; there are: all, bit_flip"),
        ("replay=often", "'often' is not a number"),
        ("replay=0.9", "a rate is 0 to 0.5"),
        ("replay=nan", "a rate is 0 to 0.5"),
        ("all=0.1", "add up to"),
    ],
)
def test_bad_rates_are_named(text: str, reason: str) -> None:
    with pytest.raises(RatesError, match=reason):
        parse_rates(text)
