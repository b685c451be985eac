"""The rack: which hosts there are, how they start, and who is primary."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from ami_headend.local.embedded.paths import postgres_program
from tests.rack import services
from tests.rack.hosts import Host, empty, give_disk, make_bridge
from tests.rack.services import DATABASE, DATABASE_PORT, OWNER, PATRONI_PORT, REDIS_PORT, SUPERUSER, WORKING_ROLE

CODE = Path(__file__).parents[2]
_CLOCK_SOURCE = CODE / "tests" / "flows" / "clock.c"
_HOSTS = {
    "db1": 11,
    "db2": 12,
    "db3": 13,
    "redis": 21,
    "web1": 31,
    "web2": 32,
    "worker1": 41,
    "worker2": 42,
    "field": 51,
}


JOURNAL_DISK, DATABASE_DISK = 32 << 20, 1 << 30  # octets


class RackError(Exception):
    """The rack is not as it should be; the message is one sentence."""


class Rack:
    """All hosts by name, in one folder; ``patience`` multiplies every wait, for a machine that does much else."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self.patience = folder, patience
        names = (SUPERUSER, OWNER, WORKING_ROLE, "replicator", "rewinder", "redis")
        self.passwords = {name: secrets.token_hex() for name in names}
        self.hosts = {name: Host(name, number, folder / name) for name, number in _HOSTS.items()}
        self.databases = [self.hosts[name] for name in ("db1", "db2", "db3")]
        self.webs = [self.hosts[name] for name in ("web1", "web2")]
        self.workers = [self.hosts[name] for name in ("worker1", "worker2")]
        self.ours = [*self.webs, *self.workers]  # those that run the head-end
        self.redis, self.field = self.hosts["redis"], self.hosts["field"]
        self.standby_may_lag = False
        self._secret_key, self.metrics_token = secrets.token_urlsafe(64), secrets.token_urlsafe(32)

    # --- starting and ending -------------------------------------------------------------------------------------

    def start(self, say: Callable[[str], object]) -> None:
        """Start all hosts; the database is migrated before web and workers begin."""
        make_bridge()
        for host in self.hosts.values():
            host.folder.mkdir()
            host.set_clock_off(0)
        self._build_clock()
        for host in self.databases:
            give_disk(host.folder / services.DATABASE_FOLDER, DATABASE_DISK)
            patroni = services.patroni(host, self.databases, self.passwords, self._preload(host))
            host.services = [services.etcd(host, self.databases), patroni]
        self.redis.services = [services.redis(self.redis, self.passwords["redis"])]
        self.field.services = [services.haproxy(self.field, self.databases, self.webs)]
        for host in (*self.databases, self.redis, self.field):
            host.start()
        say("etcd, Patroni, Redis and HAProxy are started; waiting for a primary and two standbys")
        self.wait("a primary with two standbys, one of them synchronous", self.is_replicated, 120)
        self._make_roles()
        say("migrating")
        self.manage("migrate", "--verbosity", "0", timeout_s=300)
        self.manage("master_key", "init")
        for host in self.ours:
            self.prepare(host)
        for host in self.ours:
            host.start()
        say("web and workers are started")

    def prepare(self, host: Host, code: Path = CODE) -> None:
        """Give a web or worker host its files and its services, of a version of the code."""
        var = host.folder / "var"
        var.mkdir(mode=0o700, exist_ok=True)
        self.mirror_at(host).mkdir(mode=0o700, exist_ok=True)
        if not (var / "journal").is_mount():
            give_disk(var / "journal", JOURNAL_DISK)
        shutil.copy2(self.folder / "admin" / "master.keys", var / "master.keys")
        environ = {**self.environ(host), **self._preload(host)}
        proxy = services.haproxy(host, self.databases, [])
        if host in self.webs:
            host.services = [proxy, services.web(environ, code), services.listener(environ, code)]
            return
        host.services = [proxy, services.worker(environ, code), services.beat(environ, code)]

    def found_anew(self, code: Path) -> None:
        """Begin again with an empty database, of a version of the code; the master key stays."""
        for host in (*self.ours, self.redis):
            host.stop()
        for path in self.journals:
            empty(path)
        self.on(self.primary(), f"DROP DATABASE {DATABASE} WITH (FORCE)", database="postgres")
        self._make_database()
        self.manage("migrate", "--verbosity", "0", timeout_s=300, code=code)
        self.redis.start()
        for host in self.ours:
            self.prepare(host, code)
        for host in self.ours:
            host.start()
        for host in self.webs:
            self.wait(f"{host.name} is ready", lambda: self.ready(host) == 200, 90)  # noqa: B023 - at once

    def stop(self) -> None:
        """End everything at once: nothing here is worth an orderly end."""
        for host in reversed(list(self.hosts.values())):
            if host.process is not None:
                host.kill()

    def _build_clock(self) -> None:
        library = self.folder / "clock.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_CLOCK_SOURCE)]
        subprocess.run(command, check=True, capture_output=True)

    def _preload(self, host: Host) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.folder / "clock.so"), "CLOCK_OFFSET_FILE": str(host.clock)}

    # --- settings ------------------------------------------------------------------------------------------------

    def environ(self, host: Host | None) -> dict[str, str]:
        """The environment of our processes on a host; without one, of commands beside the rack, as an administrator."""
        folder = self.folder / "admin" if host is None else host.folder / "var"
        place = f"{self.field.address if host is None else '127.0.0.1'}:{DATABASE_PORT}/{DATABASE}"
        environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "DJANGO_SETTINGS_MODULE": "ami_headend.settings",
            "AMI_VAR_DIR": str(folder),
            "MASTER_KEY_FILE": str(folder / "master.keys"),
            "KEY_JOURNAL_DIR": str(folder / "journal"),
            "DATABASE_URL": f"postgres://{WORKING_ROLE}:{self.passwords[WORKING_ROLE]}@{place}",
            "REDIS_URL": f"redis://:{self.passwords['redis']}@{self.redis.address}:{REDIS_PORT}/0",
            "SECRET_KEY": self._secret_key,
            "ALLOWED_HOSTS": "*",
            "TLS": "0",
            "TWO_FACTOR_REQUIRED": "0",
            "UPLINK_RATE": "100000/minute",
            "UPLINK_STATUS_RATE": "100000/minute",
            "UPLINK_SWEEP_AFTER_S": "15",
            "COMMAND_RETRY_S": "5",
            "REQUIRE_APPROVAL": "0",  # the fleet pins its own authority
            "RETENTION_DAYS": "400",
            "DATABASE_STANDBYS": "2",
            "ALERT_EVALUATE_EVERY_S": "5",
            "ALERT_STAND_IN_AFTER_S": "20",
            "WEBHOOK_ALLOW_HTTP": "1",
            "METRICS_TOKEN": self.metrics_token,
            "STANDBY_MAY_LAG": str(int(self.standby_may_lag)),
        }
        if host is None:
            environ["OWNER_DATABASE_URL"] = f"postgres://{OWNER}:{self.passwords[OWNER]}@{place}"
            environ["PATH"] = f"{Path(postgres_program('pg_dump')).parent}:{environ['PATH']}"  # for backup and restore
        else:
            environ["KEY_JOURNAL_MIRRORS"] = ",".join(map(str, self.mirrors(host)))
            environ["KEY_JOURNAL_MIRRORS_NEEDED"] = "one"
        return environ

    @staticmethod
    def mirror_at(host: Host) -> Path:
        """The folder of a host in which others mirror their key journals."""
        return host.folder / "var" / "mirror"

    def mirrors(self, host: Host) -> list[Path]:
        """The mirrors of a host's key journal: folders of the two hosts after it, in a ring.

        All hosts have the machine's files, so a folder of another host is there without a mount. It stands for one over
        NFS; but no fault of the network reaches it.
        """
        at = self.ours.index(host)
        return [self.mirror_at(self.ours[(at + step) % len(self.ours)]) for step in (1, 2)]

    @property
    def entrance(self) -> str:
        """Where concentrators, people and programs find it."""
        return f"http://{self.field.address}:{services.WEB_PORT}"

    @property
    def own_journals(self) -> list[Path]:
        """The folders of every host's key journal."""
        hosts = [host.folder / "var" / "journal" for host in self.ours]
        return [path for path in (self.folder / "admin" / "journal", *hosts) if path.is_dir()]

    @property
    def journals(self) -> list[Path]:
        """The same, and the mirrors."""
        return [*self.own_journals, *map(self.mirror_at, self.ours)]

    # --- commands ------------------------------------------------------------------------------------------------

    def manage(
        self, *words: str, timeout_s: float = 120, check: bool = True, code: Path = CODE
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command beside the rack, in the owner's role where it needs that."""
        (self.folder / "admin").mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(
            command,
            env=self.environ(None),
            cwd=code,
            capture_output=True,
            text=True,
            timeout=timeout_s * self.patience,
            check=False,
        )
        if check and done.returncode:
            raise RackError(f"manage.py {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def manage_on(self, host: Host, *words: str) -> str:
        """Run a command on a web or worker host; return what it said. RackError if it fails."""
        command = ["nsenter", "--target", str(host.pid), "--net", "--uts", sys.executable, "manage.py", *words]
        done = subprocess.run(
            command, env=self.environ(host), cwd=CODE, capture_output=True, text=True, timeout=120 * self.patience,
            check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stdout + done.stderr
            raise RackError(f"manage.py {' '.join(words)} on {host.name} ended with {done.returncode}: {said}")
        return done.stdout

    def wait(self, what: str, ready: Callable[[], bool], timeout_s: float) -> float:
        """Wait until ``ready()``; return the seconds that took. RackError with ``what`` after ``timeout_s``."""
        began = time.monotonic()
        while not ready():
            if time.monotonic() - began > timeout_s * self.patience:
                raise RackError(f"not within {timeout_s * self.patience:.0f} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    # --- the cluster ---------------------------------------------------------------------------------------------

    def members(self) -> list[dict[str, Any]]:
        """The members of the cluster as a Patroni that answers tells them; empty if none does."""
        for host in self.databases:
            if host.is_up():
                with suppress(OSError, ValueError):
                    return list(json.loads(self._ask(host, "cluster"))["members"])
        return []

    @staticmethod
    def _ask(host: Host, path: str, change: dict[str, Any] | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://{host.address}:{PATRONI_PORT}/{path}",
            data=None if change is None else json.dumps(change).encode(),
            method="GET" if change is None else "PATCH" if path == "config" else "POST",
        )
        with urllib.request.urlopen(request, timeout=30 if change else 3) as answer:  # noqa: S310
            return bytes(answer.read())

    def configure(self, change: dict[str, Any]) -> None:
        """Change the settings that Patroni shares."""
        self._ask(self.primary(), "config", change)

    def switch_over(self, to: Host) -> None:
        """Make a standby the primary, in good order."""
        now = self.primary()
        self._ask(now, "switchover", {"leader": now.name, "candidate": to.name})

    def primary(self) -> Host:
        """The host that is primary, by its own account and with the lock. RackError if there is none."""
        found = self.leaders()
        if not found:
            raise RackError("no database host is primary")
        return self.hosts[found[0]]

    def leaders(self) -> list[str]:
        """The hosts that say of themselves that they are primary and hold the lock."""
        found = []
        for host in self.databases:
            with suppress(OSError):
                if host.is_up():
                    self._ask(host, "primary")
                    found.append(host.name)
        return found

    def synchronous(self) -> Host:
        """The standby that every commit waits for."""
        return next(self.hosts[one["name"]] for one in self.members() if one["role"] == "sync_standby")

    def is_replicated(self) -> bool:
        """Whether there are a primary and two standbys that stream, one of them synchronous."""
        roles = sorted((one["role"], one["state"]) for one in self.members())
        return roles == [("leader", "running"), ("replica", "streaming"), ("sync_standby", "streaming")]

    def is_asynchronous(self) -> bool:
        """Whether there are a primary and two standbys that stream, and no commit waits for one."""
        roles = sorted((one["role"], one["state"]) for one in self.members())
        return roles == [("leader", "running"), ("replica", "streaming"), ("replica", "streaming")]

    def scheduling(self) -> Host:
        """The host whose beat is at work, by the lease."""
        return self.hosts[self.on(self.primary(), "SELECT host FROM ami_headend_schedulelease")[0][0]]

    def session(self, host: Host, database: str = DATABASE) -> "psycopg.Connection[tuple[Any, ...]]":
        """A session of the superuser on a database host, which commits each statement."""
        url = f"postgres://{SUPERUSER}:{self.passwords[SUPERUSER]}@{host.address}:{DATABASE_PORT}/{database}"
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def on(self, host: Host, statement: str, *values: object, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run one statement on a database host as superuser; return its rows."""
        with self.session(host, database) as session:
            cursor = session.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _make_roles(self) -> None:
        primary = self.primary()
        for role, rights in ((OWNER, "LOGIN CREATEDB"), (WORKING_ROLE, "LOGIN")):
            statement = f"CREATE ROLE {role} {rights} PASSWORD '{self.passwords[role]}'"
            self.on(primary, statement, database="postgres")
        self._make_database()

    def _make_database(self) -> None:
        self.on(self.primary(), f"CREATE DATABASE {DATABASE} OWNER {OWNER}", database="postgres")

    # --- looking -------------------------------------------------------------------------------------------------

    def ready(self, host: Host) -> int:
        """The status of a web host's readiness; 0 if it does not answer."""
        address = f"http://{host.address}:{services.WEB_PORT}/health/ready"
        try:
            with urllib.request.urlopen(address, timeout=6) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def logs(self) -> Sequence[Path]:
        return sorted(path for host in self.hosts.values() for path in host.folder.glob("*.log"))
