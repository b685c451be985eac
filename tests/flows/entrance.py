"""The entrance of cells as docs/deploy/entrance has it: a real HAProxy, with the sample's maps to change."""

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from tests.flows.stack import free_port, wait_for

SAMPLE = Path(settings.BASE_DIR) / "docs/deploy/entrance"


def certificate(folder: Path) -> None:
    """A certificate of localhost and its key: headend.pem and headend.key."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    command += ["-keyout", "headend.key", "-out", "headend.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def trust(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "headend.pem"))


@dataclass
class Entrance:
    folder: Path
    port: int
    trusted: ssl.SSLContext
    master: "subprocess.Popen[bytes]"

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    def lead(self, lines: str) -> None:
        """Replaces moved.map and reloads, as an operator does; waits until the new worker has it."""
        (self.folder / "moved.map").write_text(lines)
        before = self._workers()
        os.kill(self.master.pid, signal.SIGUSR2)
        wait_for("the worker that knows the former map has ended", lambda: not before & self._workers())

    def get(self, token: str, path: str = "/api/v1/commands") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(self.base_url + path, headers=headers, verify=self.trusted, timeout=30)

    def _workers(self) -> set[int]:
        children = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text()
        return {int(pid) for pid in children.split()}


@contextmanager
def entrance(folder: Path, ports: Mapping[str, int]) -> Iterator[Entrance]:
    """The sample as it stands, but for its addresses and the ports of `cell_a` and `cell_b`."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    certificate(folder)
    for name in ("cells.map", "moved.map"):
        shutil.copy(SAMPLE / name, folder)
    port = free_port()
    text = (SAMPLE / "haproxy.cfg").read_text()
    with (folder / "headend.pem").open("a") as both:
        both.write((folder / "headend.key").read_text())
    for of_sample, here in {
        "/etc/haproxy/": f"{folder}/",
        "bind :443": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8000": f"127.0.0.1:{ports['cell_a']}",
        "127.0.0.1:8001": f"127.0.0.1:{ports['cell_b']}",
        "inter 5s": "inter 200ms",
        "maxconn 20000": "maxconn 200",  # of which each needs two files
    }.items():
        assert of_sample in text
        text = text.replace(of_sample, here)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    with (folder / "haproxy.log").open("wb") as log:
        master = subprocess.Popen(["haproxy", "-W", "-db", "-f", str(config)], stdout=log, stderr=log)
    found = Entrance(folder, port, trust(folder), master)
    try:
        wait_for("the entrance answers", lambda: _lives(found) and _answers(found))
        yield found
    finally:
        master.terminate()
        master.wait(20)


def _lives(found: Entrance) -> bool:
    if found.master.poll() is not None:
        pytest.fail(f"haproxy ended at once:\n{(found.folder / 'haproxy.log').read_text()}")
    return True


def _answers(found: Entrance) -> bool:
    try:
        return found.get("").status_code == 401
    except httpx.TransportError:
        return False
