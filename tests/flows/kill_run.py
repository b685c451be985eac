"""Kill -9 of every kind of process of a head-end, again and again, and the count of it over many pieces.

A kill is one SIGKILL of a process with its children, or of one child. What was killed is started again at once and
not waited for, as its unit would, so that the next kill finds it at any instruction, its start among them.
"""

import json
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ami_headend.local import embedded
from ami_headend.processes import manage_command, worker_commands
from concentrators.models import Uplink
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.listener.test_cutters import wrapped
from tests.flows import site as sites
from tests.flows.feed_consumer import Consumer
from tests.flows.services import Services
from tests.flows.stack import Stack, free_port, wait_for


class Meters:
    """A meter that pushes over TCP to a listener that is killed: it pushes nothing twice, whatever became of it."""

    def __init__(self, stack: Stack) -> None:
        self.site = sites.found(stack, 0)
        self.port, self.pushed = free_port(), 0
        self._device = dlms_meter(secrets.token_bytes(8), secrets.token_bytes(32), self.site.concentrator)
        name = self.site.concentrator.name
        self.command = [*manage_command("dlms_listen"), "--concentrator", name, "--port", str(self.port)]

    def push(self) -> bool:
        """Push once; whether somebody was there to take it."""
        self.pushed += 1
        frame = wrapped(self._device.frame(bytes(11), self.pushed))
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as meter:
            meter.sendall(frame)
            return True
        return False

    def judged(self) -> int:
        """How many have a verdict."""
        rows = Uplink.objects.filter(concentrator=self.site.concentrator, verified_at__isnull=False)
        return sum(rows.values_list("frames", flat=True))


class Simulations:
    """`manage.py simulate`, run after run, each in a folder of its own and gone on with until it is whole."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder, self.whole = stack, folder, 0

    @property
    def command(self) -> list[str]:
        place = str(self.folder / f"simulation-{self.whole}")
        words = ["--url", self.stack.base_url, "--state", place, "--seed", str(self.whole + 1), "--meters", "4"]
        return [*manage_command("simulate"), *words, "--days", "1", "--concentrators", "1", "--batch", "20"]

    def ended(self, code: int | None) -> None:
        """One of them ended by itself: with 0 if all was as it had measured, and totals were equal."""
        self.whole += code == 0

    def finish(self) -> None:
        """The last one, to its end; nothing is killed any more."""
        done = self.stack.manage(*self.command[self.command.index("simulate") :], timeout_s=240)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Truth and totals are equal" in done.stdout
        self.ended(0)


class Killer:
    """Kills by kind; ``kinds`` are the names."""

    def __init__(
        self, stack: Stack, services: Services, consumer: Consumer, folder: Path, chance: random.Random
    ) -> None:
        self.stack, self.services, self.consumer, self.chance = stack, services, consumer, chance
        self.meters, self.simulations = Meters(stack), Simulations(stack, folder)
        self.ended: Counter[str] = Counter()
        self._acts = 0
        named = [*worker_commands(2), "web", "beat", "dlms", "simulator"]
        self._kinds: dict[str, Callable[[], bool]] = {name: self._of(name) for name in named}
        self._kinds |= {f"{name}'s child": self._child_of(name) for name in (*worker_commands(2), "web")}
        self._kinds |= {"feed consumer": self._consumer, "key command": self._act, "redis": self._redis}
        self._kinds |= {
            "postgres backend": self._backend,
            "postgres helper": self._helper,
            "postmaster": self._postmaster,
        }

    @property
    def kinds(self) -> list[str]:
        return sorted(self._kinds)

    def kill(self, kind: str) -> bool:
        """Kill one; False where there is none just now."""
        return self._kinds[kind]()

    def start(self, name: str) -> None:
        own = {"dlms": self.meters.command, "simulator": self.simulations.command, **worker_commands(2)}
        self.stack.launch(name, own.get(name))

    def start_what_ended(self) -> None:
        """As units do: whatever is not there is started."""
        for name, process in list(self.stack.processes.items()):
            code = process.poll()
            if code is not None:
                self.ended[name] += 1
                if name == "simulator":
                    self.simulations.ended(code)
                self.start(name)

    def _of(self, name: str) -> Callable[[], bool]:
        def kill() -> bool:
            self.stack.kill(name)
            self.start(name)
            return True

        return kill

    def _child_of(self, name: str) -> Callable[[], bool]:
        def kill() -> bool:
            with suppress(psutil.NoSuchProcess):
                return self._one_of(self.stack.children(name))
            return False

        return kill

    def _one_of(self, processes: Sequence[psutil.Process]) -> bool:
        with suppress(psutil.NoSuchProcess):
            if processes:
                self.chance.choice(processes).kill()
                return True
        return False

    def _consumer(self) -> bool:
        before = self.consumer.kills
        self.consumer.kill()
        self.consumer.start()
        return self.consumer.kills > before

    def _act(self) -> bool:
        """A command that acts on keys and journals it, killed somewhere between its start and its end."""
        self._acts += 1
        self.stack.launch("act", [*manage_command("api_token"), "make", f"killed {self._acts}", "--scope", "feed"])
        time.sleep(self.chance.uniform(0, 1.5))
        was_alive = self.stack.processes["act"].poll() is None
        self.stack.kill("act")
        return was_alive

    def _redis(self) -> bool:
        self.services.redis.process.kill()
        self.services.redis.process.wait()
        self.services.redis = embedded.start_redis(self.services.folder)
        return True

    def _backend(self) -> bool:
        """A session's process: PostgreSQL then ends all of them and recovers from its log."""
        return self._postgres("postgres: headend", "postgres: postgres")

    def _helper(self) -> bool:
        return self._postgres("postgres: checkpointer", "postgres: walwriter", "postgres: background", "postgres: auto")

    def _postgres(self, *titles: str) -> bool:
        with suppress(psutil.NoSuchProcess):
            children = self.services.postgres.process.children()
            return self._one_of([one for one in children if " ".join(one.cmdline()).startswith(titles)])
        return False

    def _postmaster(self) -> bool:
        """The whole server at once, as where its host loses its power but for what the system had not yet written."""
        postmaster = self.services.postgres.process
        for process in (postmaster, *postmaster.children()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([postmaster], 30)
        self.services.start_postgres()
        return True


def answers(url: str) -> bool:
    """Whether PostgreSQL takes sessions: it does not while it recovers."""
    with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def wait_answers(url: str) -> None:
    wait_for("PostgreSQL has recovered", lambda: answers(url), 90)


class Count:
    """The kills of all pieces, by kind, in a file that the next piece goes on from; a piece counts once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"pieces": []}

    @property
    def kills(self) -> "Counter[str]":
        return sum((Counter(piece["kills"]) for piece in self.said["pieces"]), Counter())

    def add(self, **piece: Any) -> None:
        self.said["pieces"].append(piece)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.said, indent=1))
        new.replace(self.path)

    def __str__(self) -> str:
        kills = self.kills
        frames = sum(piece["frames"] for piece in self.said["pieces"])
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(kills.items()))
        return f"{kills.total()} kills in {len(self.said['pieces'])} pieces, {frames} frames, none lost: {kinds}"
