"""A simulated meter takes commands by docs/frame.md, section 10: these are its rules, one by one."""

from pathlib import Path
from typing import Any

import cbor2
import pytest

from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.misbehaviour import RatesError, parse_faults
from concentrators.simulator.obedience import Fault, Faults, Keyring
from concentrators.simulator.spool import Mail, Said, Spool
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame
from meters.obis import COMMAND_DONE, COMMAND_REFUSED

TITLE = bytes.fromhex("0024befffe804ff1")
KEY, TRANSFER_KEY, NEW_KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
NOW_S = 1_767_225_600
# docs/frame.md: the command that brings the new key, number 17
SET_KEY_FRAME = bytes.fromhex(
    "d08357a301181e044a0024befffe804ff1000006456955b90000a0583736e15a8ec1da7c33274d11a26d30373b3037685619e684"
    "b8822fd7c0674c137babd43c7bbbbddf7e414b525bc62b57017f389a5a26d869"
)


def meter(keyring: Keyring | None = None) -> SimulatedMeter:
    return SimulatedMeter(TITLE, KEY, Memory(0), TRANSFER_KEY, keyring)


def sealed(counter: int, *fields: Any, epoch: int = 1, key: bytes = KEY, alg: int = 30, title: bytes = TITLE) -> bytes:
    key = TRANSFER_KEY if epoch == 0 else key
    cipher = DirectionCipher(downlink_key(key, title, epoch, alg), alg)
    return cipher.seal(make_kid(title, epoch), counter, cbor2.dumps(list(fields)))


def test_the_known_answer_of_the_document() -> None:
    one = meter()
    order = one.receiver.take(SET_KEY_FRAME)
    assert order is not None
    assert order.fields == [1, 17, 2, NEW_KEY, 10]
    one.renew(order)
    frame = parse_frame(one.seal(b"payload"))
    assert (frame.kid, frame.counter) == (TITLE + b"\x00\x02", 0)
    assert one.receiver.key == NEW_KEY


@pytest.mark.parametrize(
    "octets",
    [
        b"noise",
        sealed(1, 2, 7, key=NEW_KEY),
        sealed(1, 2, 7, alg=31),
        sealed(1, 2, 7, title=bytes(8)),
        sealed(1, 2, 7, epoch=2),
        SET_KEY_FRAME[:-1] + b"\x00",
    ],
    ids=["noise", "key", "alg", "title", "epoch", "tag"],
)
def test_what_is_not_for_it_is_dropped(octets: bytes) -> None:
    one = meter()
    assert one.receiver.take(octets) is None
    assert one.receiver.keyring == Keyring(0)


def test_counters_only_go_ahead_and_the_same_again_is_answered_again() -> None:
    one = meter()
    first = one.receiver.take(sealed(5, 2, 7))
    assert first is not None
    answer = one.receiver.answer(first, NOW_S, done=True)
    assert answer == (COMMAND_DONE, 7, NOW_S)
    again = one.receiver.take(sealed(5, 2, 7))
    assert again is not None
    assert again.again
    assert one.receiver.answer(again, NOW_S + 50, done=False) == answer
    assert one.receiver.take(sealed(4, 2, 8)) is None
    newer = one.receiver.take(sealed(9, 2, 8))
    assert newer is not None
    assert not newer.again
    # two answers never have the same second
    assert one.receiver.answer(newer, NOW_S, done=False) == (COMMAND_REFUSED, 8, NOW_S + 1)


@pytest.mark.parametrize(
    ("epoch", "fields", "does"),
    [
        (1, (2, 7), True),
        (1, (3, 7, 1, 2), True),
        (1, (4, 7, NOW_S), True),
        (1, (5, 7, 15, NOW_S), True),
        (1, (5, 7, 15), False),
        (0, (1, 7, 2, NEW_KEY, 10), True),
        (1, (1, 7, 2, NEW_KEY, 10), False),
        (0, (2, 7), False),
        (1, (2, 7, 8), False),
        (1, (4, 7, "now"), False),
        (1, (99, 7), False),
    ],
)
def test_which_commands_it_does(epoch: int, fields: tuple[Any, ...], does: bool) -> None:
    one = meter()
    order = one.receiver.take(sealed(1, *fields, epoch=epoch))
    assert order is not None
    assert one.receiver.does(order) is does


def test_the_old_key_is_good_until_a_command_comes_under_the_new() -> None:
    one = meter()
    order = one.receiver.take(SET_KEY_FRAME)
    assert order is not None
    one.renew(order)
    assert one.receiver.take(sealed(5, 2, 18)) is not None
    assert one.receiver.take(sealed(1, 2, 19, epoch=2, key=NEW_KEY)) is not None
    assert one.receiver.take(sealed(6, 2, 20)) is None


def test_an_epoch_that_it_has_already_changes_nothing() -> None:
    one = meter()
    for counter, epoch in ((1, 2), (2, 2), (3, 1)):
        order = one.receiver.take(sealed(counter, 1, counter, epoch, NEW_KEY if counter == 1 else KEY, 10, epoch=0))
        assert order is not None
        one.renew(order)
    assert one.epoch == 2
    assert one.receiver.key == NEW_KEY
    assert one.receiver.keyring.old is not None


def test_keys_and_counters_outlive_a_reboot() -> None:
    one = meter()
    order = one.receiver.take(SET_KEY_FRAME)
    assert order is not None
    one.renew(order)
    one.receiver.answer(order, NOW_S, done=True)
    again = meter(Keyring.load(one.receiver.keyring.dump()))
    assert again.kid == one.kid
    repeated = again.receiver.take(SET_KEY_FRAME)
    assert repeated is not None
    assert again.receiver.answer(repeated, NOW_S + 9, done=True) == (COMMAND_DONE, 17, NOW_S)


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
    said = Said(3, COMMAND_DONE, NOW_S, 17)
    ring = Keyring(3, epoch=2, taken={"0": 9})
    spool.hand_over([], [], [ring], [mail], [said])
    assert [one.octets for one in spool.mail(30)] == [b"late"]
    assert spool.said() == [said]
    assert spool.keyrings() == {3: ring}
    spool.close()
