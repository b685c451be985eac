"""Signs of life to whoever started a process, and who is taken for frozen; no fault of a socket ends a main loop."""

import logging
import socket
from pathlib import Path

import pytest

from ami_headend.core import sd_notify
from ami_headend.core.sd_notify import Listener, Silence

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


def test_a_sign_is_heard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(tmp_path / "life")
    monkeypatch.setenv(sd_notify.VARIABLE, listener.address)
    assert not listener.heard()
    sd_notify.show()
    assert listener.heard()
    assert not listener.heard()
    listener.close()


def test_an_abstract_name_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ami-headend-test-{id(monkeypatch)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
        receiver.bind(f"\0{name}")
        monkeypatch.setenv(sd_notify.VARIABLE, f"@{name}")
        sd_notify.show()
        assert b"WATCHDOG=1" in receiver.recv(100)


@pytest.mark.parametrize("name", ["nobody", "x" * 200, "file/below"])
def test_where_nobody_listens_there_is_a_warning_and_no_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(sd_notify.VARIABLE, str(tmp_path / name))
    sd_notify.show()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert sd_notify.VARIABLE in record.message


def test_without_a_listener_nothing_is_sent_or_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(sd_notify.VARIABLE, raising=False)
    sd_notify.show()
    assert not caplog.records


def test_a_full_socket_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(tmp_path / "life")
    monkeypatch.setenv(sd_notify.VARIABLE, listener.address)
    for _ in range(2_000):  # its reader sleeps
        sd_notify.show()
    assert listener.heard()
    assert not caplog.records
    listener.close()
