"""The mask authorities of a run: separate processes, as other owners would run them. No Django."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import httpx

from ami_headend.core import folders

NUMBER = 2
_START_S = 60.0
_BACKUP = "state.backup"
_STATE = "state.sqlite3"


class MaskAuthorityFailedError(Exception):
    """A mask authority of the run failed; the message is its output."""


class MadeAuthority(NamedTuple):
    """A mask authority of a run: its folder, address, and public keys in hexadecimal."""

    folder: str
    url: str
    mask_public: str
    sign_public: str


def make(
    folder: Path, certifier: tuple[str, bytes], requester: bytes, certificates: Sequence[bytes], start_s: int
) -> list[MadeAuthority]:
    """Make the authorities of a run. They accept its meters by certificate, and answer for times from its start on.

    An earlier attempt may have been killed in the middle: what it left is removed, since no meter was told of it.
    ``certifier`` is kid (and issuer) and Ed25519 public key (32 octets) of the authority that signed the certificates.
    """
    at = folder / "certificates"
    at.mkdir(parents=True, exist_ok=True)
    files = [at / f"{number}.cwt" for number in range(len(certificates))]
    for file, octets in zip(files, certificates, strict=True):
        file.write_bytes(octets)
    answers_from = f"{datetime.fromtimestamp(start_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    kid, public = certifier
    urls = [f"http://{_free_address()}" for _ in range(NUMBER)]

    def make_one(number: int) -> MadeAuthority:
        own, name = folder / f"mask-{number}", f"mask-{number}"
        witness = folder / "witnesses" / f"{number}"
        shutil.rmtree(own, ignore_errors=True)
        witness.unlink(missing_ok=True)
        _run("init", own, "--name", name, "--witness", witness, "--answers-from", answers_from)
        _run("pin_certifier", own, "--kid", kid, "--issuer", kid, "--public", public.hex())
        _run("pin_requester", own, "--name", "the head-end", "--public", requester.hex())
        for first in range(0, len(files), 500):
            _run("take", own, *files[first : first + 500])
        publics = [line.split()[-1] for line in _run("list", own).splitlines() if line.startswith("  ")]
        shutil.copy2(own / _STATE, own / _BACKUP)
        return MadeAuthority(str(own), urls[number - 1], *publics)

    with ThreadPoolExecutor(NUMBER) as pool:
        made = list(pool.map(make_one, range(1, NUMBER + 1)))
    shutil.rmtree(at)
    return made


class RunningAuthorities:
    """The running authorities of a run: each can be stopped, started again, and restored."""

    def __init__(self, authorities: Sequence[MadeAuthority]) -> None:
        self.all = authorities
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start an authority, and wait until it answers; MaskAuthorityFailedError."""
        one = self.all[number]
        words = _words("serve", one.folder, "--listen", one.url.removeprefix("http://"), "--until-eof")
        process = subprocess.Popen(
            words, env=_environment(), cwd=folders.BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._processes[number] = process
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{one.url}/health", timeout=5, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        said = b""
        if process.poll() is not None and process.stderr is not None:
            said = process.stderr.read()
        self.stop(number)
        raise MaskAuthorityFailedError(f"{one.folder} does not answer: {said.decode(errors='replace').strip()[-400:]}")

    def stop(self, number: int) -> None:
        """Stop an authority cleanly."""
        process = self._processes.pop(number, None)
        if process is None:
            return
        process.terminate()
        process.wait(30)
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()

    def restore(self, number: int) -> str:
        """Restore an authority to the state before its first answer; return its output when it is started then.

        It must not serve. Then it is told that it was restored, and serves again.
        """
        self.stop(number)
        own = Path(self.all[number].folder)
        shutil.copy2(own / _BACKUP, own / _STATE)
        try:
            self.start(number)
        except MaskAuthorityFailedError as error:
            _run("restored", own)
            self.start(number)
            return str(error)
        return ""


@contextmanager
def running(authorities: Sequence[MadeAuthority]) -> Iterator[RunningAuthorities]:
    """Run all authorities of a run for the time of the block."""
    those = RunningAuthorities(authorities)
    try:
        for number in range(len(authorities)):
            those.start(number)
        yield those
    finally:
        for number in range(len(authorities)):
            those.stop(number)


def _words(*words: object) -> list[str]:
    return [sys.executable, "-m", "ami_headend", "mask_authority", *map(str, words)]


def _environment() -> dict[str, str]:
    """Return an environment without anything of the head-end: no database address, no secret."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START") if name in os.environ}


def _run(*words: object) -> str:
    done = subprocess.run(
        _words(*words), env=_environment(), cwd=folders.BASE_DIR, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MaskAuthorityFailedError(done.stderr.strip()[-400:])
    return done.stdout


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
