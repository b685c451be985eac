"""A process that gives no sign of life is found; one whose supervisor slept, or that has just started, is not."""

import os

import pytest

from ami_headend.server import lifesigns
from ami_headend.server.lifesigns import Lifesigns, Silence

ONE, OTHER = 11, 12


@pytest.fixture
def silence() -> Silence:
    silence = Silence(10.0)
    for pid in (ONE, OTHER):
        silence.begin(pid)
    assert silence.frozen(0.0, {ONE, OTHER}) == []
    return silence


def test_whoever_is_silent_for_long_is_frozen(silence: Silence) -> None:
    assert all(silence.frozen(float(now_s), {OTHER}) == [] for now_s in range(1, 10))
    assert silence.frozen(10.0, {OTHER}) == [ONE]
    silence.forget(ONE)
    assert silence.frozen(11.0, {OTHER}) == []


def test_a_sign_ends_the_silence(silence: Silence) -> None:
    for now_s in range(1, 100):
        assert silence.frozen(float(now_s), {ONE, OTHER} if now_s % 9 == 0 else set()) == []


def test_nobody_is_frozen_because_the_supervisor_slept(silence: Silence) -> None:
    assert silence.frozen(3_600.0, set()) == []
    assert silence.frozen(7_200.0, set()) == []
    assert silence.frozen(7_201.0, {ONE, OTHER}) == []
    assert all(silence.frozen(7_201.0 + passed_s, {ONE}) == [] for passed_s in range(1, 10))
    assert silence.frozen(7_211.0, {ONE}) == [OTHER]


def test_a_process_has_a_minute_until_its_first_sign(silence: Silence) -> None:
    silence.begin(13)
    assert all(silence.frozen(float(now_s), {ONE, OTHER}) == [] for now_s in range(1, 60))
    assert silence.frozen(60.0, {ONE, OTHER}) == [13]


def test_signs_come_through_the_pipe_and_a_full_one_stops_nobody() -> None:
    signs = Lifesigns()
    assert signs.read() == set()
    lifesigns.show(signs.write_end)
    assert signs.read() == {os.getpid()}
    for _ in range(100_000):  # the reader sleeps for half a day
        lifesigns.show(signs.write_end)
    assert signs.read() == {os.getpid()}
    assert signs.read() == set()
    os.close(signs.read_end)
    lifesigns.show(signs.write_end)  # nor does one whose reader is gone
    os.close(signs.write_end)
