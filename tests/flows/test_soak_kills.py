"""Kill -9 of every kind of process under load, to any number in pieces: what was acknowledged counts once, always.

``make kills KILLS=500`` runs a piece and adds it to var/kills.json; ``SOAK_SEED`` chooses the order of its kills.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.processes import worker_commands
from keyvault import master_key
from tests.flows import site as sites
from tests.flows.feed_consumer import Consumer
from tests.flows.feed_lake import Lake
from tests.flows.kill_run import Count, Killer, wait_answers
from tests.flows.load import Poster, Probe, assert_nothing_lost, posting
from tests.flows.services import Services, processes_over
from tests.flows.stack import Stack, wait_for

KILLS = int(os.environ.get("KILLS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
RECOVERED_WITHIN_S = 90.0
LOOKED_AT_EVERY = 20  # kills, after which a fresh uplink must be verified
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900 + 20 * KILLS)]


@pytest.fixture
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("services"))
    yield services
    services.stop()


@pytest.fixture
def stack(
    services: Services, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path, settings: Settings
) -> Iterator[Stack]:
    settings.MASTER_KEY_FILE, settings.KEY_JOURNAL_DIR = tmp_path / "keys" / "master.keys", tmp_path / "journal"
    settings.FEED_FOLDERS = [str(tmp_path)]
    master_key.init(settings.MASTER_KEY_FILE)
    environ = {name: str(getattr(settings, name)) for name in ("MASTER_KEY_FILE", "KEY_JOURNAL_DIR")}
    environ |= {"FEED_FOLDERS": str(tmp_path), "AMI_VAR_DIR": str(tmp_path), "UPLINK_RATE": "100000/minute"}
    (tmp_path / "logs").mkdir()
    with (
        django_db_blocker.unblock(),
        processes_over(services, tmp_path / "logs", ("web", "beat"), environ) as stack,
    ):
        yield stack


def test_what_was_acknowledged_counts_once_whatever_is_killed(stack: Stack, services: Services, tmp_path: Path) -> None:
    count = Count(Path(os.environ.get("KILLS_FILE", Path(django_settings.BASE_DIR) / "var" / "kills.json")))
    print(f"\nSOAK_SEED={SEED}")
    chance, began = random.Random(SEED), time.monotonic()
    killer = Killer(stack, services, Consumer(stack, tmp_path / "billing", chance), tmp_path, chance)
    lake = Lake(tmp_path / "lake")
    for name in (*worker_commands(2), "dlms", "simulator"):
        killer.start(name)
    posters = [Poster(sites.found(stack, 10), pause_s=0.3) for _ in range(2)]
    probe = sites.found(stack, 1)
    with posting(posters):
        kills = _kill_again_and_again(killer, Probe(probe), chance)
        _recover(killer, Probe(probe), kills)
    _end(killer)
    assert_nothing_lost(posters)
    killer.consumer.catch_up()
    killer.consumer.kill()
    lake.catch_up()
    assert killer.meters.judged() <= killer.meters.pushed
    for words in (("audit", "verify"), ("journal", "verify")):
        done = stack.manage(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    frames = sum(poster.intervals * len(poster.site.devices) for poster in posters)
    count.add(
        seed=SEED,
        kills=dict(kills),
        frames=frames,
        pushes={"sent": killer.meters.pushed, "judged": killer.meters.judged()},
        simulations=killer.simulations.whole,
        ended_by_themselves=dict(killer.ended),
        seconds=round(time.monotonic() - began),
    )
    print(f"this piece: {dict(kills)}, {frames} frames; all pieces: {count}")


def _kill_again_and_again(killer: Killer, probe: Probe, chance: random.Random) -> Counter[str]:
    """Each kind in turn, in an order that changes, until there are enough; now and then all must have recovered."""
    kills: Counter[str] = Counter()
    ahead: list[str] = []
    while kills.total() < KILLS:
        ahead = ahead or chance.sample(killer.kinds, len(killer.kinds))
        kind = ahead.pop()
        kills[kind] += killer.kill(kind)
        killer.meters.push()
        time.sleep(chance.uniform(0, 0.5))
        killer.start_what_ended()
        if kills.total() % LOOKED_AT_EVERY == 0:
            _recover(killer, probe, kills)
            probe = Probe(probe.site)
    return kills


def _recover(killer: Killer, probe: Probe, kills: Counter[str]) -> None:
    connections.close_all()

    def verified() -> bool:
        killer.start_what_ended()
        return probe.step()

    began = time.monotonic()
    wait_for(f"the head-end recovers (seed {SEED}, after {dict(kills)})", verified, RECOVERED_WITHIN_S)
    print(f"{kills.total()} kills; recovered in {time.monotonic() - began:.1f} s", flush=True)


def _end(killer: Killer) -> None:
    """Nothing is killed any more: the simulation ends, and the meter's last push is judged."""
    wait_answers(killer.stack.owner_url)
    connections.close_all()
    killer.stack.stop("simulator")
    killer.simulations.finish()
    before = killer.meters.judged()
    wait_for("a push is judged", lambda: killer.meters.push() and killer.meters.judged() > before, 90)
