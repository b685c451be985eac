"""Date-times in all dialects that meters write."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.readings.push.clocks import ClockError, ClockRules, unix_second, zone_of
from tests.dlms_frames import SYNTHETIC, plaintexts

STANDARD = ClockRules(refuses_invalid=False)
NO_ZONE_ON_EARTH = "07e90a1a070200000000c400"  # 196 minutes west: well formed, and meant was another


def second(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize("case", SYNTHETIC["clocks"]["cases"], ids=lambda case: case["hex"])
def test_a_known_answer(case: dict[str, str]) -> None:
    octets = bytes.fromhex(case["hex"])
    if case["utc"] is None or case["hex"] == NO_ZONE_ON_EARTH:
        with pytest.raises(ClockError):
            unix_second(octets, STANDARD)
    else:
        assert unix_second(octets, STANDARD) == second(case["utc"])


def test_the_clocks_of_real_notifications() -> None:
    looked_at = 0
    for name, said, _ in plaintexts():
        clocks = [one for one in said.get("expected", ()) if "clock_utc" in one]
        if (said.get("apdu_date_time") or {}).get("utc"):
            clocks.append({"octets": said["apdu_date_time"]["octets"], "clock_utc": said["apdu_date_time"]["utc"]})
        for one in clocks:
            looked_at += 1
            assert unix_second(bytes.fromhex(one["octets"]), STANDARD) == second(one["clock_utc"]), name
    assert looked_at >= 12


@pytest.mark.parametrize(
    ("octets", "rules", "utc"),
    [
        ("07e9070e010a0f0000800080", ClockRules(zone="Europe/Vienna"), "2025-07-14T08:15:00Z"),
        ("07e9070e010a0f00ff800000", ClockRules(zone="fixed+60"), "2025-07-14T09:15:00Z"),  # standard time all year
        ("07e9070e010a0f0000007880", ClockRules(is_reversed=True), "2025-07-14T08:15:00Z"),
        ("07e90a1a0702000000800080", ClockRules(zone="Europe/Vienna"), "2025-10-26T00:00:00Z"),  # the first 02:00
        ("07e90a1a0702000000800000", ClockRules(zone="Europe/Vienna"), "2025-10-26T01:00:00Z"),  # the second
        ("07e90a1a07020000008000ff", ClockRules(zone="Europe/Vienna"), "2025-10-26T01:00:00Z"),  # status unspecified
        ("07e90a1a0702000000ff8880", ClockRules(zone="Europe/Vienna"), "2025-10-26T00:00:00Z"),
        ("07e9070e010a0f0000ff8800", ClockRules(zone="Europe/Vienna"), "2025-07-14T08:15:00Z"),  # the bit was not set
    ],
)
def test_zone_and_dialect_of_the_profile(octets: str, rules: ClockRules, utc: str) -> None:
    assert unix_second(bytes.fromhex(octets), rules) == second(utc)


@pytest.mark.parametrize(
    ("octets", "rules", "why"),
    [
        ("07e9070e010a0f0000800080", ClockRules(), "names no zone"),
        ("07e9070e010a0f0000ff8881", ClockRules(), "invalid"),
        ("07e9070e010a0f0000ffc400", ClockRules(zone="Europe/Vienna"), "has another one"),  # winter's, in July
        ("07e90a1a0702000000ff8880", ClockRules(is_reversed=True, zone="Europe/Vienna"), "has another one"),
        ("07e9031e0702 1e00 00 8000 80".replace(" ", ""), ClockRules(zone="Europe/Vienna"), "daylight saving begins"),
        ("07e9070e010a0f0000ff88", ClockRules(), "12 octets"),
        ("000101010101010100fcb880", ClockRules(zone="Europe/Vienna"), "counted"),
    ],
)
def test_what_names_no_instant_is_refused(octets: str, rules: ClockRules, why: str) -> None:
    with pytest.raises(ClockError, match=why):
        unix_second(bytes.fromhex(octets), rules)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "fixed", "fixed+1440", "../etc/passwd", ""])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ClockError):
        zone_of(name)


@given(
    st.binary(min_size=12, max_size=12),
    st.sampled_from([STANDARD, ClockRules(zone="Europe/Vienna"), ClockRules(is_reversed=True, zone="fixed+60")]),
)
@settings(max_examples=100, deadline=None)
def test_no_octets_do_harm(octets: bytes, rules: ClockRules) -> None:
    try:
        at_s = unix_second(octets, rules)
    except ClockError:
        return
    assert datetime(1, 1, 1, tzinfo=UTC).timestamp() - 86_400 < at_s < 253_402_387_200


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)),  # noqa: DTZ001 - a clock on the wall
    st.sampled_from([0, 60, 120, -300, 345]),
)
@settings(max_examples=50, deadline=None)
def test_what_a_meter_writes_comes_back(local: datetime, east: int) -> None:
    local = local.replace(microsecond=0)
    octets = local.year.to_bytes(2, "big") + bytes(
        (local.month, local.day, local.isoweekday(), local.hour, local.minute, local.second, 0xFF)
    )
    octets += (-east).to_bytes(2, "big", signed=True) + b"\x00"
    assert unix_second(octets, STANDARD) == int(local.replace(tzinfo=UTC).timestamp()) - 60 * east
