"""Random traffic against a model in memory: verdicts, readings and totals must agree."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concentrators.models import IntervalTotal
from concentrators.totals import totals
from tests.concentrators.fleet import (
    HALF_HOUR_S,
    START_S,
    WINDOW,
    Device,
    commission,
    judged,
    readings_of,
)
from tests.factories import ConcentratorFactory

Said = tuple[int, int, int, int]  # meter, counter, interval, value
Action = tuple[str, tuple[int, ...]]

METERS, CONCENTRATORS, INTERVALS = 3, 2, 5

new_frames = st.tuples(
    st.just("new"),
    st.tuples(st.integers(0, METERS - 1), st.integers(0, INTERVALS - 1), st.integers(1, 2), st.integers(0, 9)),
)
again = st.tuples(st.just("again"), st.tuples(st.integers(0, 1000)))
corrupt = st.tuples(st.just("corrupt"), st.tuples(st.integers(0, 1000), st.integers(0, 10_000)))
posts = st.lists(
    st.tuples(
        st.integers(0, CONCENTRATORS - 1),
        st.lists(st.one_of(new_frames, new_frames, again, corrupt), min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=8,
)


@dataclass
class Model:
    """What becomes of one frame at a time. Every value and counter stands in a dictionary."""

    taken: set[tuple[int, int]] = field(default_factory=set)
    values: dict[tuple[int, int], int] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)

    def judge(self, octets: bytes, meter: int, counter: int, interval: int, wh: int) -> str:
        stands = self.values.get((meter, interval))
        if (meter, counter) in self.taken:
            return "duplicate" if stands == wh else self.refused.get(octets, "counter_reused")
        self.taken.add((meter, counter))
        if stands is not None and stands != wh:
            self.refused[octets] = "reading_conflict"
            return "reading_conflict"
        self.values[meter, interval] = wh
        return "accepted"


def flipped(octets: bytes, position: int) -> bytes:
    """The frame with a bit of its ciphertext flipped, so that it is well formed and not authentic."""
    position = len(octets) - 1 - position % 50
    return octets[:position] + bytes((octets[position] ^ 1,)) + octets[position + 1 :]


def build(action: Action, devices: list[Device], sent: list[tuple[bytes, Said]]) -> tuple[bytes, Said | None]:
    """The octets of an action, and what they say: meter, counter, interval, value; None where they are forged."""
    kind, numbers = action
    if kind == "new" or not sent:
        meter, interval, wh, counter = numbers if kind == "new" else (0, 0, 1, 0)
        octets = devices[meter].frame(interval, wh, counter)
        sent.append((octets, (meter, counter, interval, wh)))
        return sent[-1]
    octets, said = sent[numbers[0] % len(sent)]
    return (octets, said) if kind == "again" else (flipped(octets, numbers[1]), None)


@pytest.mark.django_db
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(traffic=posts)
def test_whatever_is_posted_ends_as_the_contract_says(traffic: list[tuple[int, list[Action]]]) -> None:
    concentrators = ConcentratorFactory.create_batch(CONCENTRATORS)
    devices = commission(METERS, concentrators[0])
    model = Model()
    sent: list[tuple[bytes, Said]] = []
    bodies: set[tuple[object, ...]] = set()
    for posting, actions in traffic:
        frames: list[bytes] = []
        expected: Counter[str] = Counter()
        built = [build(action, devices, sent) for action in actions]
        if (posting, *(octets for octets, _ in built)) in bodies:
            continue  # the same body again: the same uplink
        bodies.add((posting, *(octets for octets, _ in built)))
        for octets, said in built:
            frames.append(octets)
            expected["tag_invalid" if said is None else model.judge(octets, *said)] += 1
        assert judged(concentrators[posting], frames) == expected

    for meter, device in enumerate(devices):
        assert readings_of(device) == {i: wh for (of, i), wh in model.values.items() if of == meter}
    summed: Counter[int] = Counter()
    counted: Counter[int] = Counter()
    for (_, interval), wh in model.values.items():
        summed[interval] += wh
        counted[interval] += 1
    kept = IntervalTotal.objects.filter(concentrator__in=concentrators)
    assert {
        (row.concentrator_id, (int(row.interval_start.timestamp()) - START_S) // HALF_HOUR_S): (
            int(row.value_sum),
            row.meters_counted,
        )
        for row in kept
    } == {(concentrators[0].pk, interval): (summed[interval], counted[interval]) for interval in summed}
    assert totals.compare(*WINDOW) == []
