"""A real OpenID provider (oidc-provider, from npm) in a process of its own, and a browser that signs in there."""

import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from tests.flows.stack import free_port

HERE = Path(__file__).parent
CLIENT_ID, CLIENT_SECRET = "headend", "between the two"
_FORM = re.compile(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


def brought() -> Path | None:
    """The folder that the provider runs in; npm brings it once. None where there is no npm, or no registry."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = Path(tempfile.gettempdir()) / f"ami-headend-identity-provider-{hashlib.sha256(lock).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return None
    making = Path(tempfile.mkdtemp(prefix="ami-headend-identity-provider-"))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, making)
    command = [npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--silent"]
    if subprocess.run(command, cwd=making, timeout=240).returncode != 0:
        return None
    with suppress(OSError):  # another process was there first
        making.rename(folder)
    return folder


@contextmanager
def running(folder: Path, redirect_uri: str, people: Mapping[str, Mapping[str, Any]], logout_uri: str) -> Iterator[str]:
    """Run it for people with these claims; give its issuer. It posts to ``logout_uri`` who signed out."""
    port = free_port()
    shutil.copy(HERE / "provider.mjs", folder)
    command = ["node", "provider.mjs", str(port), redirect_uri, logout_uri, json.dumps(people)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def signed_in(client: httpx.Client, address: str, login: str, back: str) -> str:
    """Go from an address of the provider through its forms as ``login``; give the address it sends back to."""
    for _ in range(20):
        answer = client.get(address)
        while not answer.is_redirect:
            assert answer.status_code == 200, answer.text[:500]
            form = _FORM.search(answer.text)
            assert form is not None, answer.text[:500]
            filled = dict(_HIDDEN.findall(form[2])) | (
                {"login": login, "password": "x"} if "password" in form[2] else {}
            )
            answer = client.post(urljoin(address, html.unescape(form[1])), data=filled)
        address = urljoin(str(answer.url), answer.headers["location"])
        if address.startswith(back):
            return address
    raise AssertionError(f"it never came back, but to {address}")


def sign_out(client: httpx.Client, issuer: str) -> None:
    """Sign out at the provider, whose browser this is; it has told the head-end then."""
    answer = client.get(f"{issuer}/session/end", params={"client_id": CLIENT_ID})
    form = _FORM.search(answer.text)
    assert form is not None, answer.text[:500]
    answer = client.post(html.unescape(form[1]), data=dict(_HIDDEN.findall(form[2])) | {"logout": "yes"})
    assert answer.is_redirect, answer.text[:500]
