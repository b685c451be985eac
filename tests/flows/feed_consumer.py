"""The consumer of docs/integration.md as a process of its own, which may be killed and started again."""

import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from ami_headend.api_tokens import tokens
from ami_headend.web.scopes import Scope
from concentrators.feed import sequencer
from keyvault.audit.chain import Actor
from meters.models import Reading
from meters.readings.queries import exact_text
from tests.flows.stack import START_TIMEOUT_S, Stack, wait_for

# System title, OBIS code, time, minutes of the interval, value.
Held = Counter[tuple[str, str, str, int, str]]


def program() -> str:
    """The consumer's source, as the document has it."""
    text = (Path(settings.BASE_DIR) / "docs" / "integration.md").read_text()
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(found)


def held_by_the_head_end() -> Held:
    rows = Reading.objects.values_list(
        "meter__system_title", "register__obis_code", "captured_at", "interval_minutes", "value", "register__scaler"
    )
    return Counter(
        (bytes(title).hex(), code, at.strftime("%Y-%m-%dT%H:%M:%SZ"), minutes, exact_text(value, scaler))
        for title, code, at, minutes, value, scaler in rows
    )


@dataclass
class Consumer:
    """The consumer's process and what it has stored; its token is made in the database of the stack."""

    stack: Stack
    folder: Path
    chance: random.Random
    process: "subprocess.Popen[bytes] | None" = None
    kills: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "follows").write_text(program())
        made = tokens.make(Actor("tester", "test"), "billing", [Scope.FEED], 1, timezone.now())
        self.token = made.secret

    def start(self) -> None:
        environ = {**os.environ, "FEED_URL": self.stack.base_url, "FEED_TOKEN": self.token}
        with (self.folder / "consumer.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.folder / "follows"), str(self.folder / "store.sqlite")],
                env=environ, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill -9, at whatever instruction; it may have ended by itself, as the head-end did not answer."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.kills += 1

    def restart(self) -> None:
        """Let it run for a moment, kill it, and start it again."""
        if self.process is None:
            self.start()
        time.sleep(self.chance.uniform(0, 0.6))
        self.kill()
        self.start()

    def holds(self) -> Held:
        with sqlite3.connect(self.folder / "store.sqlite", timeout=30) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'reading'").fetchone():
                return Counter()  # it was killed before it had made its tables
            rows = store.execute("SELECT system_title, obis_code, captured_at, interval_minutes, value FROM reading")
            return Counter(map(tuple, rows))

    def said(self) -> str:
        return (self.folder / "consumer.log").read_text()

    def catch_up(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it holds exactly the readings that the head-end holds; it is started again where it has ended."""
        wanted = held_by_the_head_end()
        self.restart()

        def agrees() -> bool:
            sequencer.number_settled()
            if self.process is None or self.process.poll() is not None:
                self.start()
                time.sleep(0.5)
            return self.holds() == wanted

        wait_for("the consumer holds what the head-end holds", agrees, timeout_s)
