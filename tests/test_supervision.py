"""Under a supervisor a worker or beat that is stopped, or whose main loop hangs, is replaced; who is well is not."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from django.conf import settings
from django.test import override_settings
from pytest_django import DjangoDbBlocker

from ami_headend.core import sd_notify
from ami_headend.local import stack as local
from ami_headend.local import supervision
from ami_headend.local.embedded.processes import is_living
from ami_headend.local.stack import LocalStackError, Prepared
from ami_headend.local.supervision import LocalSupervisor
from ami_headend.processes import beat_command, worker_command
from tests.flows.stack import Stack, running, wait_for

SILENCE_S = 8.0
# The main thread sleeps for good at SIGUSR2; all other threads, the heartbeat's among them, go on.
HANG = "import signal, sys, time; signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600));"
CELERY = "from celery.__main__ import main; sys.argv = ['celery', *sys.argv[1:]]; main()"


class StoryEndedError(Exception):
    """What the test waited for has come."""


class Story:
    """Takes the lines of the supervisor; ends it where ``done`` says so, or fails when the time is up."""

    def __init__(self, done: Callable[["Story"], bool], timeout_s: float = 120) -> None:
        self.done, self.lines, self.end_s = done, list[str](), time.monotonic() + timeout_s

    def line(self, name: str, text: str) -> None:
        self.lines.append(f"{name}: {text}")
        if self.done(self):
            raise StoryEndedError
        if time.monotonic() > self.end_s:
            pytest.fail("\n".join(["not in time", *self.lines]))

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


class Ticking:
    """No server: it looks at the clock at each turn of the supervisor, so that silence ends the test as well."""

    name = "clock"

    def __init__(self, story: Story) -> None:
        self.story = story

    def has_ended(self) -> bool:
        if time.monotonic() > self.story.end_s:
            pytest.fail("\n".join(["not in time", *self.story.lines]))
        return False

    def restart(self) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with django_db_blocker.unblock(), running(tmp_path_factory.mktemp("stack"), ()) as stack:
        yield stack


def supervise(story: Story, commands: dict[str, list[str]], env: dict[str, str], silence_s: float = SILENCE_S) -> None:
    supervisor = LocalSupervisor(commands, [Ticking(story)], env, settings.BASE_DIR, story, silence_s)
    with pytest.raises(StoryEndedError):
        supervisor.run()


def lead_of(word: str) -> int:
    """The process that leads: the only child of ours with this word in its command."""
    [found] = [process.pid for process in psutil.Process().children() if word in process.cmdline()]
    return int(found)


def hanging(command: list[str]) -> list[str]:
    """The same Celery command, with a main thread that hangs at SIGUSR2."""
    return [sys.executable, "-c", HANG + CELERY, *command[command.index("--app") :]]


KINDS = {
    "worker": (worker_command(1), "worker", " ready."),
    "beat": (beat_command(), "beat", "beat: Starting"),
}


@pytest.mark.parametrize(
    ("kind", "trouble"),
    [
        pytest.param("worker", signal.SIGSTOP, id="stopped-worker"),
        pytest.param("beat", signal.SIGUSR2, id="hangs-beat"),
        pytest.param("worker", signal.SIGUSR2, id="hangs-worker", marks=pytest.mark.soak),
        pytest.param("beat", signal.SIGSTOP, id="stopped-beat", marks=pytest.mark.soak),
    ],
)
def test_who_is_frozen_is_replaced(stack: Stack, kind: str, trouble: signal.Signals) -> None:
    command, word, ready = KINDS[kind]
    frozen: list[int] = []

    def done(story: Story) -> bool:
        if not frozen and story.count(ready):
            frozen.append(lead_of(word))
            # It has given signs by then: the first comes before it is ready, or at the first turn of beat.
            threading.Timer(sd_notify.EVERY_S, os.kill, (frozen[0], trouble)).start()
        return story.count(ready) == 2

    story = Story(done)
    supervise(story, {kind: hanging(command) if trouble == signal.SIGUSR2 else command}, stack.env)
    assert story.count(f"The process {kind} gave no sign of life for 8 s: killed") == 1
    assert story.count(f"The process {kind} ended (exit code -9): it is restarted") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(frozen[0], 0)


def test_who_waits_for_a_broker_that_is_away_is_left_alone(stack: Stack) -> None:
    """Celery waits up to 30 s between its tries: longer than a silence may be."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env = {**stack.env, "REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"}
        # Tries come after 2, 4, 6 and 8 s.
        story = Story(lambda story: story.count("Cannot connect to") == 5 or story.count("killed") > 0)
        supervise(story, {"worker": worker_command(1), "beat": beat_command()}, env, silence_s=5)
    assert story.count("killed") == 0, story.lines


LIVES = """
import time
from ami_headend.core import sd_notify
while True:
    sd_notify.show()
    print("lives", flush=True)
    time.sleep(0.1)
"""


def test_the_sleep_of_the_supervisor_does_not_count() -> None:
    """It is stopped for longer than a silence may be, with all that it started, as with a machine that sleeps."""
    slept: list[float] = []

    def done(story: Story) -> bool:
        if story.count("lives") == 10 and not slept:
            child = lead_of(LIVES)
            os.kill(child, signal.SIGSTOP)
            slept.append(time.monotonic())
            time.sleep(4)  # the supervisor, whose display this is, stands too
            os.kill(child, signal.SIGCONT)
        return bool(slept) and time.monotonic() > slept[0] + 8

    story = Story(done)
    supervise(story, {"one": [sys.executable, "-c", LIVES]}, dict(os.environ), silence_s=3)
    assert story.count("killed") == 0, story.lines


def test_who_never_gives_a_sign_is_not_watched() -> None:
    """A simulator, or whatever else is run beside: silence says something of those alone who have spoken."""
    story = Story(lambda story: story.count("still here") == 1)
    code = "import time; time.sleep(3); print('still here', flush=True); time.sleep(60)"
    supervise(story, {"other": [sys.executable, "-c", code]}, dict(os.environ), silence_s=1)
    assert story.count("killed") == 0


def test_a_sign_is_what_systemd_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sd_notify.show()
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        systemd.setblocking(False)
        for _ in range(2000):  # nobody reads: it never waits
            sd_notify.show()
    sd_notify.show()  # nobody is there any more
    (tmp_path / "notify").unlink()
    sd_notify.show()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"ami-headend-test-{os.getpid()}"
        systemd.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        sd_notify.show()
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    sd_notify.show()


SLEEPS = [sys.executable, "-c", "import time; time.sleep(3600)"]
ENDS = [sys.executable, "-c", "raise SystemExit(9)"]


def sleeping() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process.cmdline() == SLEEPS]


def test_who_ends_again_and_again_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make soak` does so with the processes of `up` (test_commands.py)."""
    monkeypatch.setattr(supervision, "_FIRST_WAIT_S", 0.001)
    with pytest.raises(LocalStackError) as ended:
        local.supervise({"beat": ENDS, "web": SLEEPS}, Prepared(dict(os.environ), [], "", ""))
    said = "The process beat ended 6 times within a minute, the last time exit code 9: everything was stopped."
    assert str(ended.value) == said
    assert sleeping() == []


def test_a_head_end_that_runs_for_a_while_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make soak` does so with the processes of `simulate` (flows/test_simulate.py)."""
    ready = Prepared(dict(os.environ), [], "http://127.0.0.1:1/", "")
    monkeypatch.setattr(local, "prepared", lambda host, port: nullcontext(ready))
    for name in ("web_command", "worker_command", "beat_command"):
        monkeypatch.setattr(local, name, lambda *_: SLEEPS)
    with override_settings(VAR_DIR=tmp_path), local.head_end(lambda _: len(sleeping()) == 3, 60) as address:
        assert address == ready.address
        assert len(sleeping()) == 3
    assert sleeping() == []
    monkeypatch.setattr(local, "beat_command", lambda: ENDS)
    with override_settings(VAR_DIR=tmp_path), pytest.raises(LocalStackError, match=r"did not start; .*simulate\.log"):
        local.head_end(lambda _: False, 60).__enter__()
    assert sleeping() == []


SUPERVISES = """
import os, sys
from pathlib import Path
from ami_headend.local.supervision import LocalSupervisor
class Display:
    def line(self, name, text): pass
LocalSupervisor({"one": sys.argv[1:]}, [], dict(os.environ), Path.cwd(), Display()).run()
"""


def test_a_supervisor_that_is_killed_leaves_no_process() -> None:
    """`make soak` does so with the processes of `demo` (test_commands.py)."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISES, *SLEEPS], cwd=settings.BASE_DIR)
    leader = psutil.Process(process.pid)
    wait_for("it has started", lambda: [one.cmdline() for one in leader.children()] == [SLEEPS])
    [child] = leader.children()
    process.kill()
    process.wait()
    wait_for("its process has ended", lambda: not is_living(child))
