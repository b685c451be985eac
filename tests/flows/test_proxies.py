"""The proxies' samples in docs/deploy, each before a live head-end: TLS, addresses, bodies, and what stays inside."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User

from ami_headend.signin.models import SignIn
from keyvault.cose.structures import encode_sequence
from tests.flows import site as sites
from tests.flows.entrance import certificate, trust
from tests.flows.site import frames_of
from tests.flows.stack import Stack, free_port, stack_of, wait_for
from tests.rack.services import haproxy_program

SAMPLES = Path(settings.BASE_DIR) / "docs/deploy"
LIMITS = {"TLS": "1", "PROXY_COUNT": "1", "URL_PREFIX": ""}


stack = stack_of("web", environ=LIMITS)


def sample(name: str, folder: Path, stack: Stack, port: int) -> str:
    """A sample as it stands, but for its addresses and its certificate."""
    certificate(folder)
    text = (SAMPLES / name).read_text()
    for of_sample, here in {
        "127.0.0.1:8000": f"127.0.0.1:{stack.port}",
        "/etc/ssl/": f"{folder}/",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "server_name headend.example": "server_name localhost",
        "\nheadend.example {": f"\nhttps://localhost:{port} {{",
        "{\n\tservers {": "{\n\tadmin off\n\tauto_https off\n\tservers {",
    }.items():
        text = text.replace(of_sample, here)
    return text


@contextmanager
def nginx(folder: Path, stack: Stack, port: int) -> Iterator[None]:
    text = sample("nginx.conf", folder, stack, port)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    top = f"daemon off;\npid {folder}/pid;\nerror_log {folder}/log;\nevents {{}}\n"
    config.write_text(f"{top}http {{\naccess_log off;\n{places}{text}}}\n")
    with process(folder, ["nginx", "-c", str(config), "-p", str(folder), "-e", str(folder / "log")], port):
        yield


@contextmanager
def caddy(folder: Path, stack: Stack, port: int) -> Iterator[None]:
    config = folder / "Caddyfile"
    config.write_text(sample("Caddyfile", folder, stack, port))
    with process(folder, ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)], port):
        yield


@contextmanager
def haproxy(folder: Path, stack: Stack, port: int) -> Iterator[None]:
    """Before web hosts of which one is ready, and the other refuses every connection."""
    text = sample("hosts/haproxy-entrance.cfg", folder, stack, port)
    (folder / "both.pem").write_text((folder / "headend.pem").read_text() + (folder / "headend.key").read_text())
    for of_sample, here in {
        "10.0.0.21:8000": f"127.0.0.1:{free_port()}",
        "10.0.0.22:8000": f"127.0.0.1:{stack.port}",
        "/etc/haproxy/headend.pem": str(folder / "both.pem"),
        "bind :443": f"bind 127.0.0.1:{port}",
        "    user haproxy\n    group haproxy\n": "",
    }.items():
        assert of_sample in text
        text = text.replace(of_sample, here)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    with process(folder, [haproxy_program() or "haproxy", "-db", "-f", str(config)], port):
        yield


@contextmanager
def process(folder: Path, command: list[str], port: int) -> Iterator[None]:
    trusted = trust(folder)
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the proxy answers", lambda: started.poll() is None and answers(port, trusted))
        yield
    finally:
        started.terminate()
        started.wait(20)


def answers(port: int, trusted: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"https://localhost:{port}/metrics", verify=trusted, timeout=5).status_code == 404
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("name", ["nginx", "caddy", "haproxy"])
def test_a_sample_does_what_it_says(stack: Stack, tmp_path: Path, name: str) -> None:
    if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"{name} is not installed")
    proxy = {"nginx": nginx, "caddy": caddy, "haproxy": haproxy}[name]
    site, port = sites.found(stack, 1), free_port()
    tmp_path.chmod(0o755)
    spoofed = {"X_Forwarded_For": "198.51.100.1", "X-Forwarded-For": "198.51.100.2", "X_Forwarded_Proto": "http"}
    with (
        proxy(tmp_path, stack, port),
        httpx.Client(
            base_url=f"https://localhost:{port}", verify=trust(tmp_path), timeout=30, headers=spoofed
        ) as client,
    ):
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 404, path
        body = encode_sequence(frames_of(site.devices, range(3)))
        whole = client.post("/api/v1/uplinks", content=body, headers=site.headers)
        chunked = client.post("/api/v1/uplinks", content=iter([body[:50], body[50:]]), headers=site.headers)
        assert (whole.status_code, chunked.status_code) == (202, 202)
        assert whole.json() == chunked.json()
        assert client.post("/api/v1/uplinks", content=bytes(11 << 20), headers=site.headers).status_code == 413

        page = client.get("/admin/login/")
        assert page.status_code == 200  # and no redirect: it came by TLS
        assert "server" not in page.headers or "waitress" not in page.headers["server"]
        User.objects.create_user(name)
        form = {"username": name, "password": "a guess", "csrfmiddlewaretoken": client.cookies["__Host-csrftoken"]}
        # Of the usual port, as the sample for nginx passes the name on; the others pass on what the client said.
        came_from = "https://localhost" if name == "nginx" else f"https://localhost:{port}"
        refused = client.post("/admin/login/", data=form, headers={"Referer": f"{came_from}/admin/login/"})
        assert refused.status_code == 200
        assert list(SignIn.objects.filter(account=name).values_list("address", flat=True)) == ["127.0.0.1"]
