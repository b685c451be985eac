"""Two cells for a flow: head-ends with a PostgreSQL, a Redis, a master key, a journal and backups of their own."""

import io
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
import httpx
from django.test import override_settings

from ami_headend.local import embedded
from keyvault import master_key
from keyvault.cose.structures import encode_sequence, parse_frame
from meters.models import Reading
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, START_S, register_id
from tests.flows import databases
from tests.flows.entrance import Entrance
from tests.flows.services import Services, processes_over
from tests.flows.site import Site
from tests.flows.stack import Stack, processes

FOLDERS = {"MASTER_KEY_FILE": "keys/master.keys", "KEY_JOURNAL_DIR": "journal", "BACKUP_DIR": "backups"}
USUAL = {"UPLINK_RATE": "100000/minute", "COMMAND_RATE": "100000/minute", "UPLINK_SWEEP_AFTER_S": "1"}
USUAL |= {"COMMAND_RETRY_S": "1"}
Truth = dict[tuple[bytes, int], int]  # energy by (system title, Unix time)


def places_of(folder: Path) -> dict[str, str]:
    return {name: str(folder / place) for name, place in FOLDERS.items()}


@contextmanager
def first(folder: Path, name: str) -> Iterator[Stack]:
    """A cell with a copy of the test database, which is this process's own, too; web and worker are at work."""
    for one in ("logs", "var"):
        (folder / one).mkdir(parents=True)
    services = Services(folder / "var")
    try:
        with override_settings(**places_of(folder), CELL=name):
            master_key.provider().init()
            environ = {**USUAL, **places_of(folder), "CELL": name}
            with processes_over(services, folder / "logs", ("web", "worker"), environ) as stack:
                yield stack
    finally:
        services.stop()


@contextmanager
def second(folder: Path, name: str, of: Path) -> Iterator[Stack]:
    """A cell with an empty database and a copy of the other's master key; nothing is at work yet."""
    for one in ("logs", "var"):
        (folder / one).mkdir(parents=True)
    (folder / "keys").mkdir(mode=0o700)
    shutil.copy(of / FOLDERS["MASTER_KEY_FILE"], folder / FOLDERS["MASTER_KEY_FILE"])
    services = Services(folder / "var")
    try:
        url = embedded.database_url(services.folder, embedded.OWNER).replace(embedded.DATABASE_NAME, "postgres")
        own = {"DATABASE_URL": url, "REDIS_URL": embedded.redis_url(services.folder)}
        with processes(folder / "logs", (), {**USUAL, **own, **places_of(folder), "CELL": name}, url) as stack:
            yield stack
    finally:
        services.stop()


@contextmanager
def looking_at(stack: Stack) -> Iterator[None]:
    """The database of a cell as this process's own."""
    with databases.default_at(stack.owner_url):
        yield


def manage(stack: Stack, *words: str) -> str:
    """A command that has to work; gives what it wrote."""
    done = stack.manage(*words)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def counted(stack: Stack) -> Truth:
    """What a cell holds of every meter; each once, since the table takes no second value."""
    with looking_at(stack):
        rows = Reading.objects.filter(register_id=register_id(INTERVAL))
        found = rows.values_list("meter__system_title", "captured_at", "value").order_by("meter_id", "captured_at")
        return {(bytes(title), int(at.timestamp())): value for title, at, value in found}


@dataclass
class Concentrator(threading.Thread):
    """Posts interval after interval through the entrance, keeps what is not taken, and fetches commands.

    ``nonces`` is shared by all: what each nonce of a command has sealed.
    """

    site: Site
    entrance: Entrance
    ended: threading.Event
    nonces: dict[tuple[bytes, int], bytes]
    acknowledged: set[int] = field(default_factory=set)
    commanded: set[bytes] = field(default_factory=set)  # titles of meters that commands came for
    refused: Counter[int] = field(default_factory=Counter)  # by status
    faults: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of commands, as they came
    pause_s: float = 0.1

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    @property
    def titles(self) -> set[bytes]:
        return {device.title for device in self.site.devices}

    def run(self) -> None:
        interval = 1
        options = {"base_url": self.entrance.base_url, "verify": self.entrance.trusted, "timeout": 60}
        with httpx.Client(headers=self.site.headers, **options) as client:  # type: ignore[arg-type]
            while not self.ended.wait(self.pause_s):
                if self._posts(client, interval):
                    self.acknowledged.add(interval)
                    interval += 1
                self._fetches(client)

    def truth(self) -> Truth:
        """What was acknowledged to this concentrator."""
        return {
            (device.title, _captured_s(number)): 500 + number
            for device in self.site.devices
            for number in self.acknowledged
        }

    def _posts(self, client: httpx.Client, interval: int) -> bool:
        # Into the past, as there may be more of them than intervals since yesterday.
        frames = [device.frame(-interval, 500 + interval, counter=interval) for device in self.site.devices]
        return self._takes(client, "POST", "/api/v1/uplinks", encode_sequence(frames)) is not None

    def _fetches(self, client: httpx.Client) -> None:
        stream = io.BytesIO(self._takes(client, "GET", "/api/v1/commands") or b"")
        while stream.tell() < len(stream.getbuffer()):
            number, title, octets = cbor2.load(stream)
            frame = parse_frame(octets)
            if self.nonces.setdefault((frame.kid, frame.counter), octets) != octets:
                self.faults.append(f"command {number} to {title.hex()} has a nonce that was used before")
            self.commanded.add(title)
            self.numbers.append(number)

    def _takes(self, client: httpx.Client, method: str, path: str, body: bytes | None = None) -> bytes | None:
        """The content of a good answer, None if there was none."""
        try:
            answer = client.request(method, path, content=body)
        except httpx.TransportError as error:
            self.faults.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code in (200, 202):
            return answer.content
        self.refused[answer.status_code] += 1
        return None


def _captured_s(interval: int) -> int:
    return START_S - interval * HALF_HOUR_S
