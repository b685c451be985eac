"""Processes of the web server: killed ones are replaced while the others answer, and all of them stop in good order."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import httpx

from ami_headend.core import sd_notify
from ami_headend.processes import web_command
from tests.flows import site as sites
from tests.flows.site import CBOR_SEQUENCE, frames_of
from tests.flows.stack import TRUSTED, Stack, stack_of, wait_for
from tests.server.clients import answer_of, head, sent

stack = stack_of()


def start(stack: Stack, processes: int, **env: str) -> None:
    stack.start("web", web_command("127.0.0.1", stack.port, processes), env)
    wait_for("all processes serve, and one watches", lambda: len(stack.children("web")) == processes + 1)


def _are_replaced(stack: Stack, before: set[int], killed: int) -> bool:
    return len({child.pid for child in stack.children("web")} - before) == killed


def test_killed_processes_are_replaced_and_every_request_is_answered(stack: Stack) -> None:
    start(stack, 2)
    try:
        for number in range(3):
            before = {child.pid for child in stack.children("web")}
            killed = 1 + number % 2  # one of them, then both at once
            for pid in sorted(before)[:killed]:
                os.kill(pid, signal.SIGKILL)
            # Nobody is refused: what comes meanwhile waits in the queue of the socket, which no process owns.
            assert httpx.get(f"{stack.base_url}/health/live", timeout=30, verify=TRUSTED).status_code == 200
            wait_for("they are replaced", partial(_are_replaced, stack, before, killed))
        assert "SIGKILL" in stack.log("web").read_text()
    finally:
        stack.stop("web")


def test_a_process_that_is_stopped_and_not_dead_is_replaced(stack: Stack) -> None:
    start(stack, 2, WEB_SILENCE_S="5")
    try:
        before = {child.pid for child in stack.children("web")}
        stopped = min(before)
        os.kill(stopped, signal.SIGSTOP)
        wait_for("it is replaced", partial(_are_replaced, stack, before, 1))
        assert stopped not in {child.pid for child in stack.children("web")}
        assert (
            f"process {stopped} of the web server gave no sign of life for 5 s and was killed"
            in stack.log("web").read_text()
        )
        # The others are left alone, and whoever asks is answered.
        assert len(before & {child.pid for child in stack.children("web")}) == 2
        for _ in range(4):
            assert httpx.get(f"{stack.base_url}/health/live", timeout=30, verify=TRUSTED).status_code == 200
    finally:
        stack.stop("web")


def test_the_supervisor_itself_shows_that_it_lives(stack: Stack, tmp_path: Path) -> None:
    listener = sd_notify.Listener(tmp_path / "life")
    start(stack, 1, NOTIFY_SOCKET=listener.address)
    try:
        for _ in range(2):
            wait_for("a sign of life", listener.heard, 20)
        os.kill(stack.processes["web"].pid, signal.SIGSTOP)  # its child goes on, and gives none of these
        listener.heard()
        time.sleep(3)
        assert not listener.heard()
        os.kill(stack.processes["web"].pid, signal.SIGCONT)
    finally:
        stack.stop("web")
        listener.close()


def test_what_is_in_hand_is_answered_before_it_stops(stack: Stack) -> None:
    start(stack, 1)
    site = sites.found(stack, 1)
    [frame] = frames_of(site.devices, range(1))
    body = b"\x58" + bytes([len(frame)]) + frame
    request = head(
        "POST",
        "/api/v1/uplinks",
        Authorization=f"Bearer {site.token}",
        Content_Type=CBOR_SEQUENCE,
        Content_Length=str(len(body)),
    )
    web = stack.processes["web"]
    with sent(stack.port, request + body[:7]) as client, sent(stack.port, head("GET", "/health/live")) as idle:
        assert idle.recv(12) == b"HTTP/1.1 200"
        web.terminate()
        time.sleep(1)
        assert web.poll() is None
        client.sendall(body[7:])
        assert answer_of(client).startswith(b"HTTP/1.1 202")
    assert web.wait(20) == 0
    stack.stop("web")


def test_children_do_not_outlive_a_killed_supervisor(stack: Stack) -> None:
    start(stack, 2)
    children = stack.children("web")
    stack.processes["web"].kill()
    wait_for("they stop by themselves", lambda: not any(child.is_running() for child in children))
    stack.stop("web")


def test_a_port_that_is_taken_is_one_sentence(stack: Stack) -> None:
    start(stack, 1)
    told = stack.manage("web", "--port", str(stack.port))
    stack.stop("web")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert "Cannot listen" in told.stderr
    assert stack.manage("web", "--processes", "0").returncode == 1
