"""The ground that the head-end under test stands on: its database beside the model, its clock, workers and mail."""

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.utils import timezone

from concentrators.models import Concentrator
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys
from keyvault.models import AgreementKey
from tests.stateful import database
from tests.stateful.entities import INTERVAL_S, Key, Sent
from tests.stateful.faults import Faults, Worker
from tests.stateful.field import HonestMeter
from tests.stateful.holders import Holder
from tests.stateful.model import Truth

ACTOR = Actor("stateful", "tests")
AGREEMENT_KEY = "hes-1"
Effect = Callable[[Truth], None]
Change = tuple[str | None, str | None]


class Letter(NamedTuple):
    """A command as a concentrator fetched it."""

    concentrator: int
    number: int
    title: bytes
    octets: bytes


class Clock:
    """The time of the simulation, for everything that asks Django for it."""

    def __init__(self) -> None:
        self.now = datetime.now().astimezone()

    @property
    def now_s(self) -> int:
        return int(self.now.timestamp())


clock = Clock()


class Ground:
    """A database and master key of its own, two workers, and the truth about it."""

    request_takes = timedelta(seconds=1)

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        real = datetime.now().astimezone()
        self.start = datetime.fromtimestamp(int(real.timestamp()) // INTERVAL_S * INTERVAL_S, real.tzinfo)
        clock.now = self.start - timedelta(days=280)
        self._next_interval_s = clock.now_s
        database.empty()
        settings.MASTER_KEY_FILE.unlink(missing_ok=True)
        shutil.rmtree(settings.KEY_JOURNAL_DIR, ignore_errors=True)
        master_key.init(settings.MASTER_KEY_FILE)
        self.agreement_key: AgreementKey = agreement_keys.init(AGREEMENT_KEY, ACTOR)
        self.workers = [Worker(), Worker()]
        self.truth = Truth(
            settings.COUNTER_GAP_RUNS,
            settings.SESSIONS_KEPT,
            timedelta(seconds=settings.RETRANSMISSION_WINDOW_S),
            timedelta(days=settings.KEY_GRACE_DAYS),
        )
        self.concentrators = [Concentrator.objects.create(name=name).pk for name in ("north", "south")]
        self.letters: list[Letter] = []
        self.air: list[Sent] = []  # every honest frame that may still come to the head-end
        self.meters: list[HonestMeter] = []
        self.pushers: list[HonestMeter] = []  # DLMS meters, which take no command
        self.holders: dict[bytes, Holder] = {}  # concentrators that hold keys, by system title
        self._sealed: dict[tuple[bytes, int], bytes] = {}

    def meter_of(self, title: bytes) -> HonestMeter:
        return next(meter for meter in (*self.meters, *self.pushers) if meter.title == title)

    def sender_of(self, title: bytes) -> HonestMeter | Holder:
        """Whoever seals frames under that title."""
        return self.holders[title] if title in self.holders else self.meter_of(title)

    def note_sealed(self, kid: bytes, counter: int, octets: bytes) -> None:
        """What the head-end sealed leaves; under a counter it seals one thing for ever."""
        assert self._sealed.setdefault((kid, counter), octets) == octets, "a nonce again"

    def learn(self, allowed: set[Change]) -> None:
        """Key states that have changed as they may: the model takes them over."""
        seen, kinds = database.key_states(), database.key_kinds()
        for kid in {*seen, *self.truth.keys}:
            key, after = self.truth.keys.get(kid), seen.get(kid)
            before = None if key is None else key.state
            if before == after:
                continue
            assert (before, after) in allowed, f"key {kid} went from {before} to {after}"
            if after == "retired":
                assert key is not None
                assert self.truth.is_due(key, clock.now), "retired within its grace time"
            if after is None:
                assert key is not None
                assert not key.given_away, "a key that a meter may have is gone"
                del self.truth.keys[kid]
            elif key is None:
                self.truth.keys[kid] = Key(after, *kinds[kid])
            else:
                key.state = after
        self.settle()

    def settle(self, *alternatives: Sequence[Effect]) -> None:
        """The database must say what the model says after one of some sequences of effects; with none, as it is."""
        seen = database.observed()
        first: tuple[database.Observed, database.Observed] | None = None
        for effects in alternatives or ((),):
            truth = self.truth.copy() if effects else self.truth
            for effect in effects:
                effect(truth)
            wanted = database.expected(truth, seen)
            if wanted == seen:
                self.truth = truth
                return
            first = first or (wanted, seen)
        assert first is not None
        for name in database.Observed._fields:
            want, have = (getattr(one, name) for one in first)
            wrong = {one: (have.get(one), want.get(one)) for one in {*have, *want} if have.get(one) != want.get(one)}
            assert not wrong, f"{name}: what is, and what ought to be: {wrong}"

    def pass_time(self, length: timedelta) -> None:
        clock.now += length
        self._next_interval_s = max(self._next_interval_s, clock.now_s // INTERVAL_S * INTERVAL_S)


def real_now() -> datetime:
    """The time by the clock on the wall, for what asks the operating system."""
    return datetime.now(timezone.get_current_timezone())
