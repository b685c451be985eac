"""A consumer of the feed, killed at random beside a head-end that is killed at random and restored from old backups."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker, Settings

from keyvault import master_key
from tests.flows import site as sites
from tests.flows.feed_consumer import Consumer
from tests.flows.feed_lake import Lake
from tests.flows.site import frames_of
from tests.flows.stack import Stack, running
from tests.flows.test_restore import as_owner, backed_up, lose_database

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS * 4 + 600)]


@pytest.fixture
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path, settings: Settings
) -> Iterator[Stack]:
    settings.MASTER_KEY_FILE = tmp_path / "keys" / "master.keys"
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.BACKUP_DIR = tmp_path / "backups"
    master_key.init(settings.MASTER_KEY_FILE)
    names = ("MASTER_KEY_FILE", "KEY_JOURNAL_DIR", "BACKUP_DIR")
    settings.FEED_FOLDERS = [str(tmp_path)]
    environ = {name: str(getattr(settings, name)) for name in names} | {"UPLINK_SWEEP_AFTER_S": "1"}
    environ["FEED_FOLDERS"] = str(tmp_path)
    (tmp_path / "logs").mkdir()
    with (
        django_db_blocker.unblock(),
        running(tmp_path / "logs", ("web", "worker", "beat"), environ=environ) as stack,
    ):
        yield stack


def restored(stack: Stack, backup: Path) -> None:
    """The database is lost with all processes, and the backup takes its place."""
    stack.kill("beat")
    lose_database(stack)
    done = as_owner(stack, "restore", str(backup), "--journal", stack.env["KEY_JOURNAL_DIR"])
    assert done.returncode == 0, done.stderr
    stack.start_all("web", "worker", "beat")


def test_a_consumer_ends_with_what_the_head_end_holds(stack: Stack, tmp_path: Path) -> None:
    """Whatever is killed, and over restores of backups that are older and older."""
    chance = random.Random(SEED)
    print(f"SOAK_SEED={SEED}")
    site = sites.found(stack, 20)
    billing = Consumer(stack, tmp_path / "billing", chance)
    lake = Lake(tmp_path / "lake")
    backups = [backed_up(stack)]
    interval = restores = killed = 0
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for _ in range(chance.randrange(1, 4)):
            uplink = site.posted(frames_of(site.devices, [interval]))
            interval += 1
            billing.restart()
        name = chance.choice(["web", "worker", "beat", ""])
        if name:  # at whatever instruction: perhaps while lots are numbered, or a page is sent
            stack.kill(name)
            killed += 1
            stack.start(name)
        if chance.random() < 0.2:
            billing.catch_up()
            lake.catch_up()
            backups.append(backed_up(stack))
        elif chance.random() < 0.15:
            sites.sweep_until_verified(stack, [uplink])
            restored(stack, chance.choice(backups))
            restores += 1
            for first in range(0, interval, 50):  # concentrators say again what they still have: half of it
                again = [n for n in range(first, min(first + 50, interval)) if n % 2]
                if again:
                    site.posted(frames_of(site.devices, again))
    restored(stack, chance.choice(backups))
    site.posted(frames_of(site.devices, [interval]))
    sites.sweep_until_verified(stack, [site.posted(frames_of(site.devices, [interval + 1]))])
    billing.catch_up()
    lake.catch_up()
    billing.kill()
    assert lake.notices, "no restore was told"
    print(f"{interval} intervals; killed: head-end {killed}, consumer {billing.kills} times; {restores + 1} restores")
    assert "discard the rows that you took at positions after" in billing.said()
