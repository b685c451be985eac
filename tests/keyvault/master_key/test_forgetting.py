"""A destroyed version leaves the memory of processes that do nothing with it, within a bound."""

import os
import threading
import warnings
import weakref
from pathlib import Path

import pytest

from keyvault.master_key import FileProvider, forgetting
from tests.flows.stack import wait_for


@pytest.fixture
def idle(tmp_path: Path) -> FileProvider:
    """A provider with versions 1 and 2 that has read its keys, as a worker that has verified something."""
    provider = FileProvider(tmp_path / "master.keys")
    provider.init()
    provider.add_version()
    assert provider.current().versions == [1, 2]
    return provider


def test_a_destroyed_version_is_gone_from_an_idle_process(idle: FileProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    held = weakref.ref(idle.current())
    forgetting.look()
    assert held() is not None  # the file is the same: nothing is forgotten, and nothing read again
    FileProvider(idle.path).destroy(1)  # another process
    forgetting.look()
    assert (held(), idle._cached) == (None, None)
    assert idle.current().versions == [2]


def test_a_file_that_is_gone_is_forgotten_too(idle: FileProvider) -> None:
    idle.path.unlink()
    forgetting.look()
    assert idle._cached is None


def test_it_is_done_in_the_background(idle: FileProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "EVERY_S", 0.01)
    monkeypatch.setattr(forgetting, "_thread", None)  # the one there may be sleeps for its half minute
    forgetting.watch(idle)
    thread = forgetting._thread
    assert isinstance(thread, threading.Thread)
    assert thread.daemon
    FileProvider(idle.path).destroy(1)
    wait_for("the destroyed version is forgotten", lambda: idle._cached is None)


def test_a_forked_child_holds_nothing_and_looks_after_itself(idle: FileProvider) -> None:
    """As a worker's pool process: what its parent held is not its own."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork, from Python 3.12 on
        child = os.fork()
    if child == 0:
        is_well = idle._cached is None and forgetting._thread is None
        is_well = is_well and idle.current().versions == [1, 2] and forgetting._thread is not None
        os.write(writing, b"1" if is_well else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    os.close(writing)
    assert idle._cached is not None
