"""What runs on the hosts of the rack, and its configuration: etcd, Patroni over PostgreSQL, HAProxy, Redis, our own.

The configuration is that of docs/operations/hosts.md, with shorter spans of time and less memory.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ami_headend.local.embedded.paths import postgres_program, redis_program
from ami_headend.processes import beat_command, manage_command, web_command, worker_command
from tests.rack.hosts import NETWORK, Host, Service

DATABASE, OWNER, WORKING_ROLE, SUPERUSER = "headend", "headend_owner", "headend", "postgres"
DATABASE_PORT, WEB_PORT, PATRONI_PORT, REDIS_PORT, LISTENER_PORT = 5432, 8000, 8008, 6379, 4059
DATABASE_FOLDER = "database"  # of a database host: it has a disk of its own
LISTENED_TO = "rack meters that push"  # the concentrator that everything is of which the listeners hear
LOCK_S, LOOP_S, RETRY_S = 20, 2, 8  # Patroni's ttl, loop_wait and retry_timeout: ttl >= loop_wait + 2 * retry_timeout
# PostgreSQL refuses to run as root. In a user namespace of its own root has another number, and the same files.
NOT_ROOT = ["unshare", "--user", "--map-user=1", "--map-group=1"]
_ETCD_BEAT_MS, _ETCD_ELECTION_MS = 300, 3000  # the rack shares its cores with much else
_OF_ALL_MEMBERS = {  # Patroni's configuration in etcd
    "ttl": LOCK_S,
    "loop_wait": LOOP_S,
    "retry_timeout": RETRY_S,
    "maximum_lag_on_failover": 64 << 20,
    "primary_start_timeout": 0,
    "synchronous_mode": True,
    "postgresql": {
        "use_pg_rewind": True,
        "use_slots": True,
        "parameters": {
            "max_connections": 100,
            "shared_buffers": "48MB",
            "max_wal_size": "256MB",
            "wal_keep_size": "64MB",
            "wal_sender_timeout": "10s",
            "wal_receiver_timeout": "10s",
            "tcp_user_timeout": "10s",
        },
    },
}
_INITDB = [
    {"encoding": "UTF8"},
    {"locale": "C"},
    {"locale-provider": "builtin"},
    {"builtin-locale": "C.UTF-8"},
    "data-checksums",
]


def etcd(host: Host, members: Sequence[Host]) -> Service:
    """A member of etcd, which keeps who is primary."""
    peers = ",".join(f"{one.name}=http://{one.address}:2380" for one in members)
    command = ["etcd", "--name", host.name, "--data-dir", str(host.folder / "etcd"), "--logger", "zap"]
    command += ["--listen-peer-urls", f"http://{host.address}:2380"]
    command += ["--initial-advertise-peer-urls", f"http://{host.address}:2380"]
    command += ["--listen-client-urls", f"http://{host.address}:2379"]
    command += ["--advertise-client-urls", f"http://{host.address}:2379"]
    command += ["--initial-cluster", peers, "--initial-cluster-state", "new"]
    command += ["--heartbeat-interval", str(_ETCD_BEAT_MS), "--election-timeout", str(_ETCD_ELECTION_MS)]
    return Service("etcd", command, {"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": ""})


def patroni(host: Host, members: Sequence[Host], passwords: dict[str, str], preload: dict[str, str]) -> Service:
    """Patroni with the PostgreSQL that it runs."""
    data = host.folder / DATABASE_FOLDER
    data.mkdir(mode=0o700, exist_ok=True)
    address = f"{host.address}:{PATRONI_PORT}"
    settings = {
        "scope": "rack",
        "name": host.name,
        "restapi": {"listen": address, "connect_address": address},
        "etcd3": {"hosts": [f"{one.address}:2379" for one in members]},
        "bootstrap": {"dcs": _OF_ALL_MEMBERS, "initdb": _INITDB},
        "postgresql": _member(host, data, passwords),
        "watchdog": {"mode": "off"},
    }
    path = data / "patroni.json"
    path.write_text(json.dumps(settings))  # JSON is YAML, too
    path.chmod(0o600)
    environ = {"PATH": os.environ["PATH"], "HOME": str(data), "LANG": "C.UTF-8", **preload}
    return Service("patroni", [*NOT_ROOT, sys.executable, "-m", "patroni", str(path)], environ)


def _member(host: Host, data: Path, passwords: dict[str, str]) -> dict[str, Any]:
    """What Patroni is told of the PostgreSQL of one host."""
    roles = (("superuser", SUPERUSER), ("replication", "replicator"), ("rewind", "rewinder"))
    return {
        "listen": f"{host.address}:{DATABASE_PORT}",
        "connect_address": f"{host.address}:{DATABASE_PORT}",
        "data_dir": str(data / "cluster"),
        "bin_dir": str(Path(postgres_program("postgres")).parent),
        "pgpass": str(data / "pgpass"),
        "remove_data_directory_on_rewind_failure": True,
        "parameters": {"unix_socket_directories": ""},
        "pg_hba": [
            f"host {databases} {who} {NETWORK}.0/24 scram-sha-256"
            for databases, who in (("replication", "replicator"), ("all", "all"))
        ],
        "authentication": {use: {"username": name, "password": passwords[name]} for use, name in roles},
    }


def haproxy(host: Host, databases: Sequence[Host], webs: Sequence[Host]) -> Service:
    """HAProxy: port 5432 leads to the primary, whichever host that is.

    On the concentrators' side port 8000 leads to a web host that is ready, and 4059 to one whose listener answers.
    """
    path = host.folder / "haproxy.cfg"
    lines = [
        "global",
        "    maxconn 400",
        "defaults",
        "    mode tcp",
        "    timeout connect 3s",
        "    timeout client 1h",
        "    timeout server 1h",
        "    timeout check 4s",
        f"listen primary\n    bind {host.address if webs else '127.0.0.1'}:{DATABASE_PORT}",
        "    option httpchk GET /primary",
        "    http-check expect status 200",
        "    default-server inter 1s fall 3 rise 1 on-marked-down shutdown-sessions",
        *(f"    server {one.name} {one.address}:{DATABASE_PORT} check port {PATRONI_PORT}" for one in databases),
    ]
    if webs:
        lines += [
            f"listen web\n    bind {host.address}:{WEB_PORT}",
            "    mode http",
            "    timeout server 30s",
            "    option redispatch",
            "    option httpchk GET /health/ready",
            "    default-server inter 2s fall 2 rise 1 on-marked-down shutdown-sessions",
            *(f"    server {one.name} {one.address}:{WEB_PORT} check" for one in webs),
            f"listen dlms\n    bind {host.address}:{LISTENER_PORT}",  # one without a database keeps what it has heard
            "    default-server inter 2s fall 2 rise 1 on-marked-down shutdown-sessions",
            *(f"    server {one.name} {one.address}:{LISTENER_PORT} check" for one in webs),
        ]
    path.write_text("\n".join(lines) + "\n")
    return Service(
        "haproxy", [haproxy_program() or "haproxy", "-W", "-db", "-f", str(path)], {"PATH": os.environ["PATH"]}
    )


def haproxy_program() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def redis(host: Host, password: str) -> Service:
    command = [redis_program(), "--bind", host.address, "--port", str(REDIS_PORT), "--requirepass", password]
    return Service("redis", [*command, "--save", "", "--appendonly", "no", "--dir", str(host.folder)])


def web(environ: dict[str, str], code: Path) -> Service:
    return Service("web", web_command("0.0.0.0", WEB_PORT, 1), environ, cwd=str(code))  # noqa: S104 - of its network


def listener(environ: dict[str, str], code: Path) -> Service:
    """The listener for DLMS meters."""
    command = [*manage_command("dlms_listen"), "--concentrator", LISTENED_TO, "--host", "0.0.0.0"]  # noqa: S104
    return Service("listener", [*command, "--port", str(LISTENER_PORT)], environ, cwd=str(code))


def worker(environ: dict[str, str], code: Path) -> Service:
    return Service("worker", worker_command(2), environ, cwd=str(code))


def beat(environ: dict[str, str], code: Path) -> Service:
    return Service("beat", beat_command(), environ, cwd=str(code))
