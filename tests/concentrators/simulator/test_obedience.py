"""A simulated meter takes commands by docs/frame.md, section 10: these are its rules, one by one."""

from pathlib import Path
from typing import Any

import cbor2
import pytest

from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.misbehaviour_kinds import RatesError, parse_faults
from concentrators.simulator.obedience import Fault, Faults, TakenCommand
from concentrators.simulator.spool import ExtraValue, Mail, Spool
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

TITLE = bytes.fromhex("0024befffe804ff1")
KEY, TRANSFER_KEY, NEW_KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
PUBLIC = bytes((9,)) + bytes(31)
NOW_S = 1_767_225_600
# docs/frame.md: the command that brings the new key, number 17
SET_KEY_FRAME = bytes.fromhex(
    "d08357a301181e044a0024befffe804ff1000006456955b90000a0583736e15a8ec1da7c33274d11a26d30373b3037685619e684"
    "b8822fd7c0674c137babd43c7bbbbddf7e414b525bc62b57017f389a5a26d869"
)


def meter(memory: Memory | None = None, alg: int = 10, transfer_alg: int = 10, scheme: str = "ccm") -> SimulatedMeter:
    return SimulatedMeter(
        TITLE, KEY, memory or Memory(0), TRANSFER_KEY, alg=alg, transfer_alg=transfer_alg, scheme=scheme
    )


def taken(one: SimulatedMeter, octets: bytes) -> TakenCommand:
    """The command in a frame that the meter takes."""
    order = one.receiver.take(octets, one.epoch)
    assert order is not None
    return order


def sealed(counter: int, *fields: Any, epoch: int = 1, key: bytes = KEY, alg: int = 30, title: bytes = TITLE) -> bytes:
    key = TRANSFER_KEY if epoch == 0 else key
    cipher = DirectionCipher(downlink_key(key, title, epoch, alg), alg)
    return cipher.seal(make_kid(title, epoch), counter, cbor2.dumps(list(fields)))


def test_the_known_answer_of_the_document() -> None:
    one = meter()
    order = taken(one, SET_KEY_FRAME)
    assert order.fields == [1, 17, 2, NEW_KEY, 10]
    one.renew(order)
    frame = parse_frame(one.seal(b"payload"))
    assert (frame.kid, frame.counter) == (TITLE + b"\x00\x02", 0)
    assert one.key.octets == NEW_KEY


@pytest.mark.parametrize(
    "fields",
    [
        (1, 22, 2, NEW_KEY, 10, 99),
        (1, 22, 2, NEW_KEY, 10, 0),
        (1, 22, 2, NEW_KEY, 5),
        (6, 23, 2, 10, 0, bytes(32)),
        (7, 24, bytes(8)),
    ],
    ids=["scheme", "scheme 0", "alg", "agree key", "concentrator under the transfer key"],
)
def test_a_scheme_that_it_does_not_know_it_refuses(fields: tuple[Any, ...]) -> None:
    one = meter()
    order = taken(one, sealed(1, *fields, epoch=0))
    assert not one.receiver.does(order)


@pytest.mark.parametrize(
    "octets",
    [
        b"noise",
        sealed(1, 2, 7, key=NEW_KEY),
        sealed(1, 2, 7, alg=31),
        sealed(1, 2, 7, title=bytes(8)),
        sealed(1, 2, 7, epoch=2),
        SET_KEY_FRAME[:-1] + b"\x00",
        sealed(1),
        sealed(1, 2),
        sealed(1, "2", 7),
        sealed(1, 2, -7),
    ],
    ids=["noise", "key", "alg", "title", "epoch", "tag", "empty", "no number", "text", "negative"],
)
def test_what_is_not_for_it_is_dropped(octets: bytes) -> None:
    one = meter()
    before = dict(one.memory.nonvolatile.cells)
    assert one.receiver.take(octets, one.epoch) is None
    assert one.memory.nonvolatile.cells == before


def test_counters_only_go_ahead_and_the_same_again_is_answered_again() -> None:
    one = meter()
    answer = one.answer(taken(one, sealed(5, 2, 7)), NOW_S, COMMAND_DONE)
    assert answer == (COMMAND_DONE, 7, NOW_S)
    again = taken(one, sealed(5, 2, 7))
    assert again.again
    assert one.receiver.answer_again(again) == answer
    assert one.receiver.take(sealed(4, 2, 8), one.epoch) is None
    newer = taken(one, sealed(9, 2, 8))
    assert not newer.again
    # two answers never have the same second
    assert one.answer(newer, NOW_S, COMMAND_REFUSED) == (COMMAND_REFUSED, 8, NOW_S + 1)


@pytest.mark.parametrize(
    ("epoch", "fields", "does"),
    [
        (1, (2, 7), True),
        (1, (3, 7, 1, 2), True),
        (1, (4, 7, NOW_S), True),
        (1, (4, 7, NOW_S, 9), True),
        (1, (5, 7, 15, NOW_S), True),
        (1, (5, 7, 15), False),
        (0, (1, 7, 2, NEW_KEY, 10), True),
        (0, (1, 7, 2, NEW_KEY, 10, 1), True),
        (0, (1, 7, 2, NEW_KEY, 5, 2), True),
        (0, (1, 7, 2, NEW_KEY, 10, 3), True),
        (0, (1, 7, 2, NEW_KEY, -65537, 4, PUBLIC), True),
        (0, (1, 7, 2, NEW_KEY, 10, 0), False),  # of scheme 0 it has five items
        (0, (1, 7, 2, NEW_KEY, 10, 2), False),
        (0, (1, 7, 2, NEW_KEY, 10, 99), False),
        (0, (1, 7, 2, NEW_KEY, 10, 5), True),
        (0, (1, 7, 2, NEW_KEY, 11, 7), True),
        (0, (1, 7, 2, NEW_KEY, -65537, 8, PUBLIC), True),
        (0, (1, 7, 2, NEW_KEY, -65537, 8), False),
        (0, (1, 7, 2, NEW_KEY, -65537, 4), False),
        (0, (1, 7, 2, NEW_KEY, 10, 1, PUBLIC), False),
        (0, (1, 7, 2, NEW_KEY[1:], 10), False),
        (0, (6, 7, 2, 10, 0, PUBLIC), False),  # it has no pair of its own
        (1, (7, 7, TITLE), True),
        (1, (7, 7, TITLE[1:]), False),
        (0, (7, 7, TITLE), False),
        (1, (1, 7, 2, NEW_KEY, 10), False),
        (0, (2, 7), False),
        (1, (2, 7, 8), False),
        (1, (4, 7, "now"), False),
        (1, (99, 7), False),
    ],
)
def test_which_commands_it_does(epoch: int, fields: tuple[Any, ...], does: bool) -> None:
    one = meter()
    assert one.receiver.does(taken(one, sealed(1, *fields, epoch=epoch))) is does


def test_the_old_key_is_good_until_a_command_comes_under_the_new() -> None:
    one = meter()
    one.renew(taken(one, SET_KEY_FRAME))
    one.answer(taken(one, sealed(5, 2, 18)), NOW_S, COMMAND_DONE)
    one.answer(taken(one, sealed(1, 2, 19, epoch=2, key=NEW_KEY)), NOW_S, COMMAND_DONE)
    assert one.receiver.take(sealed(6, 2, 20), one.epoch) is None


def test_an_epoch_that_it_has_already_changes_nothing() -> None:
    one = meter()
    for counter, epoch in ((1, 2), (2, 2), (3, 1)):
        one.renew(taken(one, sealed(counter, 1, counter, epoch, NEW_KEY if counter == 1 else KEY, 10, epoch=0)))
    assert one.epoch == 2
    assert one.key.octets == NEW_KEY


def test_a_third_key_before_a_command_came_under_the_second() -> None:
    """The meter has two keys at most: the newest and the one before."""
    one = meter()
    third = bytes(range(96, 128))
    one.renew(taken(one, SET_KEY_FRAME))
    one.renew(taken(one, sealed(2**40 - 1, 1, 30, 3, third, 11, epoch=0)))
    assert (one.epoch, one.key.octets, parse_frame(one.seal(b"")).alg) == (3, third, 11)
    assert taken(one, sealed(1, 2, 31, epoch=3, key=third, alg=31)).number == 31
    assert taken(one, sealed(1, 2, 31, epoch=2, key=NEW_KEY)).number == 31


def test_keys_and_counters_outlive_a_reboot() -> None:
    one = meter()
    order = taken(one, SET_KEY_FRAME)
    one.renew(order)
    answer = one.answer(order, NOW_S, COMMAND_DONE)
    again = meter(one.memory)
    assert again.kid == one.kid
    repeated = taken(again, SET_KEY_FRAME)
    assert repeated.again
    assert again.receiver.answer_again(repeated) == answer


class TestClock:
    """A set clock is refused as late unless it names a frame that was sealed within ten minutes of running time."""

    def late(self, one: SimulatedMeter, running_s: float, *heard: int, **more: Any) -> bool:
        one.let_time_pass(running_s)
        return one.is_late(taken(one, sealed(2, 4, 7, NOW_S, *heard, **more)), running_s)

    def test_one_that_says_nothing_of_what_was_heard(self) -> None:
        one = meter()
        one.let_time_pass(0)
        one.seal(b"")
        assert self.late(one, 1)

    @pytest.mark.parametrize(
        ("running_s", "late"), [(1, False), (599, False), (600, False), (601, True), (9_999, True)]
    )
    def test_by_how_long_the_meter_ran_since_that_frame(self, running_s: float, late: bool) -> None:
        one = meter()
        one.let_time_pass(0)
        for _ in range(3):
            one.seal(b"")
        assert self.late(one, running_s, 3) is late

    @pytest.mark.parametrize(
        ("heard", "late"), [(0, True), (3, True), (4, False), (5, False), (6, True), (2**40, True)]
    )
    def test_by_which_frames_were_heard(self, heard: int, late: bool) -> None:
        """Three frames were sealed long ago, two a minute ago; a sixth was not sealed yet."""
        one = meter()
        one.let_time_pass(0)
        for running_s in (0, 0, 0, 700, 700):
            one.let_time_pass(running_s)
            one.seal(b"")
        assert self.late(one, 760, heard) is late

    def test_nothing_that_was_heard_before_a_loss_of_power(self) -> None:
        before = meter()
        before.let_time_pass(0)
        before.seal(b"")
        assert self.late(meter(before.memory), 1, 1)

    def test_nothing_that_was_heard_under_another_key(self) -> None:
        one = meter()
        one.let_time_pass(0)
        one.seal(b"")
        one.renew(taken(one, SET_KEY_FRAME))
        one.let_time_pass(1)
        one.seal(b"")
        assert self.late(one, 1, 1)
        assert not self.late(one, 1, 1, epoch=2, key=NEW_KEY)

    def test_it_says_so_at_the_time_that_is_in_the_command(self) -> None:
        """Its own clock is two days ahead: the head-end would not take an event of that time."""
        one = meter()
        order = taken(one, sealed(2, 4, 7, NOW_S))
        assert one.answer(order, NOW_S + 2 * 86_400, COMMAND_LATE) == (COMMAND_LATE, 7, NOW_S)


def test_faults_follow_from_seed_number_and_repetition() -> None:
    faults = [Faults(1, {"lose": 0.5}).draw(number) for number in range(100)]
    assert faults == [Faults(1, {"lose": 0.5}).draw(number) for number in range(100)]
    assert set(faults) == {Fault.LOSE, None}
    assert 30 < faults.count(Fault.LOSE) < 70
    drawn = Faults(1, {"lose": 0.5})
    assert {drawn.draw(1) for _ in range(30)} == {Fault.LOSE, None}
    assert {Faults(1, {}).draw(number) for number in range(10)} == {None}


def test_rates_of_faults() -> None:
    assert parse_faults("") == {}
    assert parse_faults("lose=0.1,delay=0.2") == {"lose": 0.1, "delay": 0.2}
    for text in ("lose", "lose=x", "lose=2", "lose=-1", "lose=0.6,delay=0.6", "nothing=0.1", "lose=nan"):
        with pytest.raises(RatesError):
            parse_faults(text)


def test_mail_waits_for_its_time_and_goes_with_what_was_said(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.post_mail(0, TITLE, b"late", "delay", 20.0)
    spool.post_mail(1, TITLE, b"now", "", 10.0)
    assert spool.mail(9) == []
    (mail,) = spool.mail(10)
    assert mail == Mail(2, 1, TITLE, b"now", "")
    said = ExtraValue(3, COMMAND_DONE, NOW_S, 17)
    spool.hand_over([], [], [mail], [said])
    assert [one.octets for one in spool.mail(30)] == [b"late"]
    assert spool.said() == [said]
    spool.close()
