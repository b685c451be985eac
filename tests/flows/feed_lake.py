"""A data lake: files that the head-end delivers into a folder, read as docs/integration.md says."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from django.utils import timezone

from concentrators.feed import sequencer
from concentrators.feed.deliveries import configuration, sending
from concentrators.feed.deliveries.configuration import Wanted
from keyvault.audit.chain import Actor
from tests.flows.feed_consumer import Held, held_by_the_head_end
from tests.flows.stack import wait_for

_NAME = "lake"


class Lake:
    """The folder; its delivery is made in the database of the stack."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        wanted = Wanted(kind="folder", address=str(folder), rows=100, wait_minutes=0)
        configuration.save(_NAME, wanted, Actor("tester", "test"), timezone.now())
        self.seen: dict[str, bytes] = {}

    @property
    def notices(self) -> list[dict[str, Any]]:
        """The notices that there are, in the order of the eras that they begin."""
        found = [json.loads(path.read_bytes()) for path in self._files() if path.name.endswith("-gone.json")]
        return sorted(found, key=lambda notice: notice["era_began_at"])

    def holds(self) -> Held:
        """What stands of all files, in the order of eras; each is whole, and never changes."""
        files = self._files()
        for path in files:
            assert self.seen.setdefault(path.name, path.read_bytes()) == path.read_bytes(), path.name
        told = {notice["era"]: notice["discard_after"] for notice in self.notices}
        eras = dict.fromkeys([*(self._era(path) for path in files if self._era(path) not in told), *told])
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for era in eras:
            if told.get(era) is not None:
                rows = {place: row for place, row in rows.items() if place[0] <= told[era]}
            for path in files:
                if self._era(path) == era and path.suffix == ".ndjson":
                    lines = map(json.loads, path.read_bytes().split(b"\n")[:-1])
                    rows |= {(line["position"], line["row"]): line for line in lines}
        last = {
            (row["system_title"], row["obis_code"], row["captured_at"]): (row["interval_minutes"], row["value"])
            for _, row in sorted(rows.items())
        }
        return Counter((*key, *value) for key, value in last.items())

    def catch_up(self) -> None:
        """Wait until it holds exactly the readings that the head-end holds."""
        wanted = held_by_the_head_end()

        def agrees() -> bool:
            sequencer.number_settled()
            delivery = configuration.found(_NAME)
            sending.make_due(delivery.pk)
            return self.holds() == wanted

        wait_for("the files hold what the head-end holds", agrees)

    def _files(self) -> list[Path]:
        """The complete ones in order of names: with a checksum, which is right."""
        found = []
        for path in sorted(self.folder.glob("[!.]*")):
            checksum = path.with_name(f"{path.name}.sha256")
            if path.suffix != ".sha256":
                assert checksum.read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
                found.append(path)
        return found

    @staticmethod
    def _era(path: Path) -> str:
        return path.name.split("_")[1]
