"""A cell is split in two under load, step by step as docs/scaling.md says: each frame is counted by one of them."""

import functools
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from django.test import override_settings
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from concentrators.commands.queue import CommandRequest, enqueue
from concentrators.feed import sequencer
from concentrators.fleet import tokens
from concentrators.models import CommandKind, Uplink
from tests.flows import cells
from tests.flows import site as sites
from tests.flows.cells import Concentrator, counted, manage
from tests.flows.entrance import Entrance, entrance
from tests.flows.feed_consumer import Consumer
from tests.flows.site import Site
from tests.flows.stack import Stack, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

CONCENTRATORS = 4
METERS = int(os.environ.get("SPLIT_METERS", "5"))  # of each


def read_now(stack: Stack, site: Site) -> None:
    with cells.looking_at(stack):
        requests = [CommandRequest(device.meter, CommandKind.READ_NOW, {}) for device in site.devices]
        enqueue(requests, "tester", timezone.now())


def all_verified(stack: Stack) -> bool:
    stack.enqueue("sweep_uplinks")  # as beat does
    time.sleep(0.5)
    with cells.looking_at(stack):
        return not Uplink.objects.filter(verified_at=None).exists()


def go_on(concentrators: list[Concentrator], frames: int = 5) -> None:
    """Waits until each concentrator was acknowledged so many more intervals; A's feed has what was verified by then."""
    before = {one: len(one.acknowledged) for one in concentrators}
    wait_for(
        "every concentrator posts", lambda: all(len(one.acknowledged) >= n + frames for one, n in before.items()), 120
    )
    sequencer.number_settled()


@contextmanager
def at_work(found: list[Site], way_in: Entrance) -> Iterator[list[Concentrator]]:
    ended, nonces = threading.Event(), dict[tuple[bytes, int], bytes]()
    working = [Concentrator(site, way_in, ended, nonces, pause_s=0.1 + METERS / 1000) for site in found]
    for one in working:
        one.start()
    try:
        yield working
    finally:
        ended.set()
        for one in working:
            one.join()


def found_in_a(a: Stack, settings: Settings) -> list[Site]:
    """Concentrators with meters; the token of the last one that moves is of before cells had names."""
    found = [sites.found(a, METERS) for _ in range(CONCENTRATORS)]
    settings.CELL = ""
    found[1].token = tokens.issue(found[1].concentrator)
    settings.CELL = "a"
    for site in found:
        read_now(a, site)
    return found


def assert_split(
    a: Stack, b: Stack, before: cells.Truth, moved: list[Concentrator], stayed: list[Concentrator]
) -> None:
    """A and B together have counted what was acknowledged, each frame by one of them."""
    in_a, in_b = counted(a), counted(b)
    assert before.items() <= in_a.items()
    new_in_b = {key: value for key, value in in_b.items() if key not in before}
    assert not in_a.keys() & new_in_b.keys(), "a frame was accepted by both"
    expected: cells.Truth = {}
    for one in (*moved, *stayed):
        expected |= one.truth()
    assert in_a | new_in_b == expected
    titles = {title for one in moved for title in one.titles}
    assert {title for title, _ in new_in_b} == titles
    for one in stayed:
        assert one.truth().items() <= in_a.items()
        assert one.refused == Counter(), "a concentrator that stays was interrupted"
    for one in moved:
        assert set(one.refused) == {503}
    assert [fault for one in (*moved, *stayed) for fault in one.faults] == []


@dataclass
class Split:
    """The steps of docs/scaling.md, with how long each took, in seconds."""

    a: Stack
    b: Stack
    way_in: Entrance
    names: Path  # the file that names the concentrators that move
    took_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - began

    def hold(self) -> None:
        with self.step("hold at the entrance"):
            self.way_in.lead(manage(self.a, "cell", "tokens", str(self.names), "--backend", "hold"))

    def release(self, stayed: list[Concentrator]) -> str:
        """Gives the backup, which has uplinks of those that stay that A has not verified."""
        with self.step("release in A"):
            said = manage(self.a, "cell", "release", str(self.names), "--to", "b")
        assert f"Released 2 concentrators with {2 * METERS} meters to b." in said
        self.a.stop("worker")
        go_on(stayed)
        with self.step("back A up"):
            backup = manage(self.a, "backup").strip()
        assert Uplink.objects.filter(verified_at=None).exists()
        self.a.start("worker")
        return backup

    def restore(self, backup: str) -> cells.Truth:
        """Gives what B holds when it is loaded: what A has counted."""
        with self.step("restore into B"):
            manage(self.b, "restore", backup, "--journal", self.a.env["KEY_JOURNAL_DIR"])
        before = counted(self.b)
        with self.step("keep in B"):
            said = manage(self.b, "cell", "keep", "--of", "a")
        assert f"Cell b has 2 concentrators with {2 * METERS} meters; all else is of cell a." in said
        assert "Revoked tokens of programs: billing." in said
        with self.step("back B up"):
            manage(self.b, "backup")
        with self.step("start B"):
            self.b.start_all("web", "worker")
        return before

    def lead(self) -> None:
        with self.step("lead to B"):
            self.way_in.lead(manage(self.b, "cell", "tokens", str(self.names), "--backend", "cell_b"))

    def forget(self) -> None:
        with self.step("forget in A"):
            assert "Revoked 3 tokens" in manage(self.a, "cell", "forget", "--to", "b")
        manage(self.a, "backup")
        with self.step("rotate B's master key"):
            manage(self.b, "master_key", "rotate", "--here")


def test_a_cell_is_split_under_load(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "entrance").mkdir()
    with django_db_blocker.unblock(), cells.first(tmp_path / "a", "a") as a:
        found = found_in_a(a, settings)
        with (
            following(a, tmp_path / "billing-a") as billing,
            cells.second(tmp_path / "b", "b", tmp_path / "a") as b,
            entrance(tmp_path / "entrance", {"cell_a": a.port, "cell_b": b.port}) as way_in,
        ):
            split = Split(a, b, way_in, tmp_path / "moving.txt")
            split.names.write_text("".join(f"{site.concentrator.name}\n" for site in found[:2]))
            with at_work(found, way_in) as working:
                before = split_while(split, working)
            for cell in (a, b):
                wait_for("all is verified", functools.partial(all_verified, cell), 120)
            assert_split(a, b, before, working[:2], working[2:])
            assert_feeds(billing, b, tmp_path)
            assert_new_tokens_need_no_list(split, found[0])
            for cell in (a, b):
                manage(cell, "audit", "verify")
            print({name: round(seconds, 1) for name, seconds in split.took_s.items()})


def split_while(split: Split, working: list[Concentrator]) -> cells.Truth:
    """All steps while concentrators are at work; gives what A had counted when it was backed up."""
    go_on(working)
    split.hold()
    backup = split.release(working[2:])
    before = split.restore(backup)
    split.lead()
    go_on(working)
    split.forget()
    go_on(working)
    return before


@contextmanager
def following(stack: Stack, folder: Path) -> Iterator[Consumer]:
    consumer = Consumer(stack, folder, random.Random(7))
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.kill()


def assert_feeds(billing: Consumer, b: Stack, folder: Path) -> None:
    """A consumer goes on at A; and from a copy of what it holds at B, which tells it what to discard in that."""
    billing.catch_up()
    billing.kill()
    with override_settings(**cells.places_of(folder / "b"), CELL="b"), cells.looking_at(b):
        of_b = Consumer(b, folder / "billing-b", random.Random(7))
        assert of_b.token.startswith("ami_b_")
        shutil.copy(folder / "billing-a/store.sqlite", folder / "billing-b")
        of_b.catch_up()
        of_b.kill()
        assert "discard the rows that you took at positions after" in of_b.said()


def assert_new_tokens_need_no_list(split: Split, site: Site) -> None:
    """A token that B issues leads to B without the list of those that moved; the former one is nobody's then."""
    new = manage(split.b, "concentrator", "token", site.concentrator.name).strip()
    assert new.startswith("dcu_b_")
    split.way_in.lead("")
    assert split.way_in.get(new).status_code == 200
    assert split.way_in.get(site.token).status_code == 401
    for stack, token in ((split.a, new), (split.b, site.token.replace("dcu_a_", "dcu_c_"))):
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{stack.base_url}/api/v1/commands", headers=headers, timeout=30).status_code == 421
