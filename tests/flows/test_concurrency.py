"""Many at once: the same body, and the same meters through two workers."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from concentrators.models import Uplink
from keyvault.cose.structures import encode_sequence
from tests.concentrators.fleet import Device
from tests.flows import site as sites
from tests.flows.site import assert_one_verdict_each, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import Stack

THREADS = 10


def test_same_body_from_ten_threads(live_stack: Stack) -> None:
    site = sites.found(live_stack, 20)
    body = encode_sequence(frames_of(site.devices, range(20)))
    together = Barrier(THREADS)

    def post(_: int) -> tuple[int, bytes]:
        together.wait()
        answer = site.post_body(body)
        return answer.status_code, answer.content

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(post, range(THREADS)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 202
    uplink = Uplink.objects.get(concentrator=site.concentrator)
    wait_verified([uplink.pk])
    assert site.post_body(body).content == answers[0][1]
    assert assert_one_verdict_each([uplink.pk]) == {"accepted": 400}
    assert_readings(site.devices, readings_expected(site.devices, range(20)))


def test_two_workers_on_the_same_meters(live_stack: Stack) -> None:
    """Uplinks with each other's frames in any order, through two concentrators: each counter counts once."""
    chance = random.Random(29)
    intervals = range(24)
    site, other = sites.found(live_stack, 15), sites.found(live_stack, 1)
    frames = frames_of(site.devices, intervals)
    uplinks = [chance.sample(frames, 250) for _ in range(24)]
    doors = [chance.choice([site, other]) for _ in uplinks]
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda door, uplink: door.posted(uplink), doors, uplinks))
    wait_verified(ids, timeout_s=60)

    covered = set().union(*uplinks)
    assert len(covered) == len(frames)
    posted = sum(map(len, uplinks))
    assert assert_one_verdict_each(ids) == {"accepted": len(frames), "duplicate": posted - len(frames)}
    expected = readings_expected(site.devices, intervals)
    assert_readings(site.devices, expected)
    assert sites.total_of(site.concentrator) == sum(expected.values())  # whoever brought the frames
    assert sites.total_of(other.concentrator) == 0
    for device in site.devices:
        counter = device.counter()
        assert (counter.highest, len(counter.gaps)) == (23, 0)
    assert not Uplink.objects.exclude(last_error="").exists()


def test_one_counter_used_twice_at_the_same_time(live_stack: Stack) -> None:
    """Two contents under one counter race each other: one stands, the other is a reused counter."""
    site = sites.found(live_stack, 8)
    rivals = [[rival(device, number, wh) for device in site.devices for number in range(10)] for wh in (5, 6, 7)]
    with ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(site.posted, rivals))
    wait_verified(ids)
    assert assert_one_verdict_each(ids) == {"accepted": 80, "counter_reused": 160}
    assert sites.tallied(site.concentrator) == {"counter_reused": 160}
    assert 80 * 5 <= sites.total_of(site.concentrator) <= 80 * 7


def rival(device: Device, number: int, wh: int) -> bytes:
    return device.frame(number, wh, counter=number)
