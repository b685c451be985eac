"""A meter of scheme ``hop`` moves to another concentrator and back: the head-end's doors, the simulator's field."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.utils import timezone

from concentrators.commands import downlink, queue
from concentrators.commands.queue import CommandRequest
from concentrators.fleet import hop_key_sets
from concentrators.fleet.assignments import assign
from concentrators.models import Assignment, Command, CommandKind, Concentrator, ReportedSum
from concentrators.simulator.factory import Factory
from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.link_store import LinkStore
from concentrators.simulator.plan import Plan
from concentrators.simulator.production import Production
from concentrators.simulator.registration import concentrator_name, register
from concentrators.simulator.spool import Spool
from concentrators.totals import reported_sums
from keyvault.cose.structures import split_sequence
from meters.models import Meter, Reading
from tests.concentrators.fleet import judged

pytestmark = pytest.mark.django_db
SECRET = bytes(32)
HALF_HOUR_S = 1800
MOVED = 0  # the meter that moves; the second stays


class Site:
    """Two concentrators that hold keys and two meters, one of which moves; time passes by half hours."""

    def __init__(self, folder: Path) -> None:
        start_s = (int(timezone.now().timestamp()) // 86_400 - 1) * 86_400
        self.plan = Plan("0a0b0c0d", 5, ["a", "b"], 2, [30], start_s, start_s + 86_400, schemes=["hop"])
        register(self.plan, SECRET)
        names = [concentrator_name(self.plan, number) for number in range(2)]
        self.concentrators = [Concentrator.objects.get(name=name) for name in names]
        self.meter = Meter.objects.get(system_title=self.plan.system_title(MOVED))
        self.load, self.folder = HouseholdLoad(5, start_s), folder
        self.boot()

    def boot(self) -> None:
        """The field goes on from what its file says."""
        self.spool = Spool(self.folder)
        self.store = LinkStore(self.spool)
        self.production = Production(self.plan, self.load, self.spool, Factory(self.plan, SECRET))

    def fetch_keys(self) -> None:
        self.store_keys()
        assert self.production.is_ready()

    def store_keys(self) -> None:
        for number, one in enumerate(self.concentrators):
            self.store.keep_keys(number, hop_key_sets.sealed(one.pk, timezone.now()))

    def measure(self, ticks: int) -> dict[str, int]:
        self.production.advance(ticks)
        return self.post()

    def post(self) -> dict[str, int]:
        """Everything that concentrators have; the verdicts on it."""
        verdicts: dict[str, int] = {}
        for number, one in enumerate(self.concentrators):
            while (batch := self.spool.next_batch(number, 100, partial=True)) is not None:
                self.spool.keep_receipt(batch, batch.id)
                for verdict, count in judged(one, split_sequence(batch.body), timezone.now()).items():
                    verdicts[verdict] = verdicts.get(verdict, 0) + count
        return verdicts

    def move_to(self, number: int) -> None:
        at = datetime.fromtimestamp(self.production.clock_s, UTC)
        assign([(self.meter.pk, self.concentrators[number].pk)], at)

    def pass_commands(self, number: int, kind: CommandKind = CommandKind.SET_CONCENTRATOR) -> list[str]:
        """What a concentrator fetches for its meters reaches them; what became of the commands of a kind."""
        for one in downlink.offer(self.concentrators[number].pk, 10, timezone.now()):
            self.store_mail(number, one.number, one.octets)
        self.production.obey(timezone.now().timestamp())
        self.post()
        commands = Command.objects.filter(meter=self.meter, kind=kind)
        return list(commands.order_by("pk").values_list("state", flat=True))

    def lose_command(self, number: int) -> None:
        """A concentrator fetches a command for the meter that moves, which never comes to it."""
        offers = downlink.offer(self.concentrators[number].pk, 10, timezone.now())
        assert sum(one.system_title == bytes(self.meter.system_title) for one in offers) == 1

    def ask(self) -> None:
        """An operator asks the meter that moves for its register."""
        queue.enqueue([CommandRequest(self.meter, CommandKind.READ_NOW, {})], "test", timezone.now())

    def store_mail(self, number: int, command: int, octets: bytes) -> None:
        title = bytes(Command.objects.get(pk=command).meter.system_title)
        self.spool.post_mail(number, title, octets, "", 0)

    def readings(self) -> int:
        return Reading.objects.filter(meter=self.meter, register__obis_code="1-0:1.29.0").count()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_from_one_to_another_and_back(site: Site) -> None:
    site.fetch_keys()
    assert site.pass_commands(0) == ["done"]
    assert site.measure(4) == {"accepted": 2 * 4 + 2}  # reports, and a frame of sums each
    site.move_to(1)
    site.fetch_keys()  # the old one forgets the meter, which does not know yet that it was moved
    site.measure(2)
    assert site.readings() == 4
    assert site.pass_commands(1) == ["done", "done"]
    site.measure(2)
    assert site.readings() == 8  # what the old one did not take was sealed anew
    site.spool.close()
    site.boot()  # all of it outlives a kill
    site.move_to(0)
    site.fetch_keys()
    site.measure(1)
    assert site.pass_commands(0) == ["done"] * 3
    site.measure(2)
    assert site.readings() == 11
    reported_sums.compare(timezone.now())
    assert list(ReportedSum.objects.filter(differs_since__isnull=False)) == []
    assert Assignment.objects.filter(meter=site.meter).count() == 3


def test_what_the_old_one_still_reports_for_then_counts_and_for_now_does_not(site: Site) -> None:
    """A concentrator that keeps old keys speaks for the time when the meter was its own, and for no other."""
    site.fetch_keys()
    site.measure(2)
    site.move_to(1)
    site.production.advance(2)  # with the keys that it should have forgotten
    # The other concentrator's reports and sums count; what this one says, with the sums of no meters, does not.
    assert site.post() == {"accepted": 2 + 1, "identity_mismatch": 2 + 1}


@pytest.mark.parametrize("has_left", [False, True])
def test_a_command_from_before_the_move_waits_until_the_meter_was_told_its_concentrator(
    site: Site, has_left: bool
) -> None:
    """Until then the meter tags its answers for the old one, and the new one drops them."""
    site.fetch_keys()
    assert site.pass_commands(0) == ["done"]
    site.ask()
    if has_left:
        site.lose_command(0)
    site.move_to(1)
    site.fetch_keys()
    assert site.pass_commands(1) == ["done", "done"]
    Command.objects.update(next_attempt_at=timezone.now())  # a pause is over
    assert site.pass_commands(1, CommandKind.READ_NOW) == ["done"]


def test_a_move_that_the_meter_never_learned_of_gives_way_to_the_next_one(site: Site) -> None:
    site.fetch_keys()
    assert site.pass_commands(0) == ["done"]
    site.move_to(1)
    site.lose_command(1)
    site.production.advance(1)  # time passes
    site.move_to(0)
    site.fetch_keys()
    assert site.pass_commands(0) == ["done", "cancelled", "done"]


def test_a_concentrator_that_has_a_new_key_knows_it_before_the_meter_does(site: Site) -> None:
    """Keys and the command that brings one may come at any moment, also between two looks at the keys."""
    site.fetch_keys()
    assert site.pass_commands(0) == ["done"]
    queue.enqueue_keys([site.meter], "test", timezone.now())
    site.store_keys()
    assert site.pass_commands(0, CommandKind.SET_KEY) == ["done"]
    assert site.store.dropped() == {}
    assert site.store.failures(0) == "[]"
