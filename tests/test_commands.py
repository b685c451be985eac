"""Every management command has a test that names it, shows an example in its help, and up and demo stop clean."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command, get_commands, load_command_class
from pytest_django import Settings

from ami_headend.local.embedded.processes import is_living
from ami_headend.management.commands import summary
from concentrators.ingest.activity import Activity
from tests.flows import warm
from tests.flows.stack import TRUSTED, free_port, is_open, wait_for

pytestmark = pytest.mark.timeout(900)
OUR_APPS = ("ami_headend", "concentrators", "meters", "keyvault")
# On a machine that does much else; both cost only what fails.
START_S, STOP_S = 240, 120
COMMANDS = sorted((name, app) for name, app in get_commands().items() if app in OUR_APPS)


@pytest.mark.parametrize(("name", "app"), COMMANDS)
def test_help_shows_an_example(name: str, app: str) -> None:
    text = load_command_class(app, name).create_parser("manage.py", name).format_help()
    assert re.search(rf"^  .*manage\.py {name}\b", text, re.MULTILINE), f"manage.py {name} --help shows no example"


def test_static_files_that_cannot_be_written_are_said_in_one_sentence(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings.STATIC_ROOT = tmp_path / "file" / "static"
    with pytest.raises(CommandError, match="file/static': the static files are not all there"):
        call_command("collectstatic", interactive=False, verbosity=0)


@functools.cache
def words_of_calls() -> set[str]:
    """What stands in quotes in any test's call of a command."""
    text = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    calls = re.findall(r"""(?:call_command|manage|run_stack)\(([^)]*)""", text)
    return {word for call in calls for word in re.findall(r"""["'](\w+)(?=["'])""", call)}


@pytest.mark.parametrize(("name", "app"), COMMANDS)
def test_every_command_has_a_test_that_runs_it(name: str, app: str) -> None:
    assert name in words_of_calls(), f"no test calls manage.py {name}"


@pytest.mark.parametrize("words", [["audit", "verify"], ["backup"], ["restore", "--replay"], ["journal", "verify"]])
def test_a_database_that_does_not_answer_is_one_sentence(tmp_path: Path, words: list[str]) -> None:
    url = "postgres://headend@127.0.0.1:1/headend"
    env = {**os.environ, "DATABASE_URL": url, "OWNER_DATABASE_URL": "", "KEY_JOURNAL_DIR": str(tmp_path)}
    done = warm.run([sys.executable, "manage.py", *words], env)
    assert "Traceback" not in done.stderr
    if words[0] != "journal":  # that one needs no database
        assert (done.returncode, "Connection refused" in done.stderr) == (1, True), done.stderr


def test_output_that_nobody_reads_any_more_is_no_fault() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "manage.py", "help", "--commands"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, cwd=settings.BASE_DIR)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def embedded_environ(var_dir: Path) -> dict[str, str]:
    """The environment of a head-end on embedded services of its own."""
    configured = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"}
    env = {key: value for key, value in os.environ.items() if key not in configured}
    env |= {"AMI_VAR_DIR": str(var_dir), "MASTER_KEY_FILE": str(var_dir / "master.keys"), "TLS": "0"}
    return env | {"AMI_LOCAL": "1"}  # up and demo need not be told; the commands beside them do


def heeds_interrupts() -> None:
    """In a child: Ctrl-C ends it, also where the tests run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def run_stack(
    command: str, port: int, var_dir: Path, *words: str, environ: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[str]]:
    """`manage.py up` or `demo` on embedded services of its own."""
    with (var_dir.parent / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", command, "--port", str(port), *words],
            cwd=settings.BASE_DIR,
            env={**embedded_environ(var_dir), **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heeds_interrupts,  # noqa: PLW1509 - the test process starts it from its main thread
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_S)


def answers(port: int) -> bool:
    if not is_open(port):  # which costs less than to ask
        return False
    try:
        return httpx.get(f"http://127.0.0.1:{port}/admin/login/", timeout=5, verify=TRUSTED).status_code == 200
    except httpx.TransportError:
        return False


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


@pytest.fixture(scope="module")
def var_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `up` and `demo`: made by the first that starts, found by the others, whatever ended who was there.

    That `make demo` makes one by itself is told in test_terminal.py.
    """
    return tmp_path_factory.mktemp("up") / "var"


def the(processes: list[psutil.Process], *words: str) -> psutil.Process:
    """The process of a family whose command line has these words."""
    return next(one for one in processes if set(words) <= set(one.cmdline()))


def test_up_serves_starts_again_what_is_killed_and_stops_everything(var_dir: Path) -> None:
    """Worker, beat, web server, listener, Redis and postmaster, each by kill -9. Afterwards SIGTERM stops everything.

    How Ctrl-C does so is told in test_terminal.py. The listener's concentrator is not registered yet.
    """
    port, listened = free_port(), free_port()
    output = var_dir.parent / "output"
    listener = {"DLMS_LISTEN": f'--concentrator "Mill Lane" --port {listened}'}
    with run_stack("up", port, var_dir, environ=listener) as process:
        wait_for("up answers", lambda: process.poll() is not None or answers(port), START_S)
        leader = psutil.Process(process.pid)
        before = family(leader)
        password = (var_dir / "admin.password").read_text().strip()
        assert f"password {password}" in output.read_text()
        wanted = (["beat"], ["--queues", "uplinks"], ["web", "--port"], ["dlms_listen", "Mill Lane"])
        for one in [the(leader.children(), *words) for words in wanted]:
            one.kill()
        for name in ("redis", "postgres"):
            next(one for one in leader.children() if one.name().startswith(name)).kill()
        wait_for("each is started again", lambda: output.read_text().count(": it is restarted, ") >= 6, START_S)
        wait_for("all of it answers", lambda: answers(port) and is_well(var_dir), START_S)
        wait_for("the listener listens", lambda: is_open(listened), START_S)
        processes = {*before, *family(leader)}
        process.terminate()
        assert process.wait(STOP_S) == 0
    assert not [one for one in processes if is_living(one)]
    assert "Everything that was started has stopped." in output.read_text()


def is_well(var_dir: Path) -> bool:
    """Whether doctor finds database, broker, workers and schedule well, in the stack's own folder."""
    done = warm.run([sys.executable, "manage.py", "doctor", "--json"], embedded_environ(var_dir))
    well = {finding["name"] for finding in json.loads(done.stdout) if finding["well"]}
    if {"database", "broker", "workers", "schedule"} <= well:
        return True
    time.sleep(3)  # they give signs every few seconds, and each look is a process
    return False


@pytest.mark.soak  # in make test with processes that do nothing: test_supervision.py
def test_up_ends_whole_when_a_process_ends_again_and_again(var_dir: Path) -> None:
    port = free_port()
    with run_stack("up", port, var_dir) as process:
        wait_for("up answers", lambda: process.poll() is not None or answers(port), START_S)
        leader = psutil.Process(process.pid)
        processes = family(leader)
        killed: set[int] = set()
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess, StopIteration):
                beat = the([one for one in leader.children() if one.pid not in killed], "beat")
                killed.add(beat.pid)
                beat.kill()
            time.sleep(0.05)
        assert process.wait(STOP_S) == 1
    assert len(killed) == 6
    assert not [one for one in processes if is_living(one)]
    said = (var_dir.parent / "output").read_text()
    assert "The process beat ended 6 times within a minute, the last time exit code -9: everything was stopped." in said


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_taken_port_is_one_sentence_and_starts_nothing(tmp_path: Path, command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with run_stack(command, taken.getsockname()[1], tmp_path / "var") as process:
            assert process.wait(STOP_S) == 1
    assert "CommandError: Cannot listen on 127.0.0.1 port" in (tmp_path / "output").read_text()
    assert not (tmp_path / "var" / "postgres").exists()


def test_a_demo_of_no_meters_is_refused() -> None:
    with pytest.raises(CommandError, match="--meters must be at least 1"):
        call_command("demo", "--meters", "0")


@pytest.mark.django_db
def test_summary_prints_figures(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("summary")
    assert "refused: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--minutes", "0"], ["--minutes", "inf"], ["--minutes", "1e12"], ["--every", "nan"], ["--every", "-1"]]
)
def test_summary_refuses_numbers_that_are_none(words: list[str]) -> None:
    with pytest.raises(CommandError, match="must be above 0"):
        call_command("summary", *words)


def test_summary_names_refusals_by_kind() -> None:
    seen = Activity(posted=1500, accepted=1200, duplicate=100, rejected=50, failures={"tag_invalid": 50}, queue=3)
    table = summary.table(seen, 270.4)
    assert summary.refusals(seen) == "refused: tag_invalid 50"
    assert [next(iter(column.cells)) for column in table.columns] == [
        "1,500",
        "1,350",
        "1,200",
        "100",
        "50",
        "270",
        "3",
    ]


@pytest.mark.soak  # in make test with a process that does nothing: test_supervision.py
def test_demo_leaves_no_process_when_it_is_killed(var_dir: Path) -> None:
    """By kill -9. What it shows, and how it ends by Ctrl-C, is told in test_terminal.py."""
    output = var_dir.parent / "output"
    with run_stack("demo", free_port(), var_dir, "--every", "1", "--meters", "24") as process:
        wait_for("a summary", lambda: process.poll() is not None or "refused: " in output.read_text(), START_S)
        processes = family(psutil.Process(process.pid))
        assert len(processes) >= 13  # those of up, the simulator and the summary
        process.kill()
        wait_for("all have ended", lambda: not any(is_living(one) for one in processes), STOP_S)
